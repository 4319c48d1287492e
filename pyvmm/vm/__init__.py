"""Virtual machines: images, the machine, control of instances, the agent, diagnosis and GDB."""
