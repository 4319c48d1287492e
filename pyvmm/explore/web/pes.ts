// Registers and code of the PEs; pause and resume.

import { button, facts, fill, h, table } from "./dom";
import type { Pane } from "./pane";
import type { PePicture, RecordPicture, Vcpu } from "./protocol";
import { granuleLink } from "./links";

export const pes: Pane = {
  id: "pes",
  name: "PEs",
  async show(element, link) {
    const pictures = await link.ask<PePicture[]>("observe_pes");
    const code = h("div", { class: "code" });
    const result = h("span", { class: "hint", role: "status" });
    const tell = (error: Error): void => fill(result, error.message);
    const again = (): Promise<void> => pes.show(element, link, null);
    const act = (method: string): void => void link.ask(method).then(again, tell);
    const step = async (cpu: number): Promise<void> => {
      try {
        const isDone = await link.ask<boolean>("debug_step", { cpu });
        await again();
        if (!isDone) fill(element.querySelector(".hint")!, `PE ${cpu} waits for an interrupt: continue`);
        element.querySelector<HTMLElement>(`[data-step="${cpu}"]`)?.focus();
      } catch (error) {
        tell(error as Error);
      }
    };
    fill(element,
      h("div", { class: "filters" }, [
        button("Pause the guest", "stop every vCPU", () => act("pause")),
        button("Continue", "let the vCPUs run", () => act("resume")),
        button("Read again", "read the registers again", () => void again()), result,
      ]),
      code, ...pictures.map(registers));
    try {
      fill(code, ...(await link.ask<Vcpu[]>("debug")).map((vcpu, cpu) => listing(vcpu, cpu, step)));
    } catch (error) {
      fill(code, h("p", { class: "hint" }, [`No code: ${(error as Error).message}`]));
    }
  },
};

function registers(picture: PePicture): HTMLElement {
  const values = (rows: Record<string, string>): HTMLElement =>
    h("div", { class: "registers" }, Object.entries(rows).map(([name, value]) =>
      h("span", { class: "register" }, [h("b", {}, [name]), ` ${value}`])));
  return h("section", { class: "pe-registers" }, [
    h("h3", {}, [`PE ${picture.index}: ${picture.world}, ${picture.pstate}`]),
    values(picture.registers),
    h("h4", {}, ["EL1"]), values(picture.system),
    h("h4", {}, ["EL2"]), values(picture.controls),
  ]);
}

function listing(vcpu: Vcpu, cpu: number, step: (cpu: number) => Promise<void>): HTMLElement {
  const pc = vcpu.registers["pc"];
  const rows = vcpu.code.map((line) => [
    h("span", { class: line.address === pc ? "here" : "" }, [line.address]), line.word, line.text,
  ]);
  const next = button("Step", `execute one instruction of PE ${cpu}, while the guest is paused`, () => void step(cpu));
  next.dataset.step = String(cpu);
  return h("section", { "data-code": String(cpu) }, [
    h("h3", {}, [`Code of PE ${cpu} `, next]), table(["address", "word", "instruction"], rows),
  ]);
}

export const realms: Pane = {
  id: "realms",
  name: "Realm",
  async show(element, link) {
    const found = await link.ask<RecordPicture[]>("observe_realms");
    const recs = await link.ask<RecordPicture[]>("observe_recs");
    fill(element, ...found.map((each) => record("Realm", each)), ...recs.map((each) => record("REC", each)));
  },
};

const ADDRESSES = new Set(["rtt_base", "owner", "metadata", "aux"]);

function record(kind: string, picture: RecordPicture): HTMLElement {
  return h("section", { class: "record" }, [
    h("h3", {}, [`${kind} `, granuleLink(picture.address)]),
    facts(Object.entries(picture.fields).map(([name, value]) => [
      name,
      ADDRESSES.has(name) && value.startsWith("0x")
        ? h("span", {}, value.split(" ").flatMap((each) => [granuleLink(each), " "]))
        : value,
    ])),
  ]);
}
