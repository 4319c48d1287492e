"""The tests: a mirror of the packages, and meta/ for the rules of the tree itself."""
