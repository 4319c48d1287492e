// An attestation token: each claim with its meaning, and each check.

import { button, fill, h, table } from "./dom";
import type { Source } from "./link";
import type { Pane } from "./pane";

interface TokenPicture {
  token: string;
  challenge: string;
  is_verified: boolean;
  claims: { part: string; name: string; value: string; meaning: string }[];
  checks: { name: string; outcome: string; findings: string[] }[];
}

export const token: Pane = {
  id: "token",
  name: "Token",
  async show(element, link) {
    const result = h("div", { class: "token", "aria-live": "polite" });
    const text = h("input", {
      type: "text", "aria-label": "token", placeholder: "or paste a token: base64 or hexadecimal", size: "40",
    });
    fill(element,
      h("form", { class: "walk-form" }, [
        button("Get a token", "ask the agent in the realm, with a new challenge", () => void show(result, link, "")),
        text, h("button", { type: "submit" }, ["Verify"]),
      ], {
        submit: (event) => {
          event.preventDefault();
          void show(result, link, text.value.trim());
        },
      }),
      result);
  },
};

async function show(element: HTMLElement, link: Source, text: string): Promise<void> {
  fill(element, "…");
  try {
    const picture = await link.ask<TokenPicture>("token", text ? { text } : {});
    fill(element, ...parts(picture));
  } catch (error) {
    fill(element, h("p", { class: "error" }, [(error as Error).message]));
  }
}

function parts(picture: TokenPicture): HTMLElement[] {
  const marks: Record<string, string> = { passed: "✓", failed: "✗", skipped: "–" };
  const checks = picture.checks.map(({ name, outcome, findings }) => [
    h("span", { class: outcome === "failed" ? "refused" : "allowed" }, [h("b", {}, [marks[outcome] ?? ""])]),
    name, outcome, findings.join("; "),
  ]);
  const claims = picture.claims.map(({ part, name, value, meaning }) => [
    part, h("b", {}, [name]), meaning, h("span", { class: "digest" }, [value]),
  ]);
  return [
    h("p", { class: picture.is_verified ? "allowed" : "refused" }, [
      h("b", {}, [picture.is_verified ? "✓ verified" : "✗ not verified"]),
      picture.challenge ? ` for the challenge ${picture.challenge.slice(0, 16)}…` : "",
    ]),
    h("h3", {}, ["Checks"]), table(["passed", "check", "outcome", "findings"], checks),
    h("h3", {}, ["Claims"]), table(["part", "claim", "what it means", "value"], claims),
  ];
}
