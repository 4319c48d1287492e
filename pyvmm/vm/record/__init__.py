"""Records of runs, and their replay: the same run again, instruction by instruction."""
