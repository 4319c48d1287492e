"""Pictures of a machine as text: one module per kind; `canvas` prints them, also as SVG."""
