"""Code that the verbs share: options, output, terminals, and the process of an instance."""
