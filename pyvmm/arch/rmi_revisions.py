"""The revisions of the Realm Management Interface that the RMM serves.

RMI 2.0 is a beta; its version number is that of all betas, so ``BETA`` says which one this is.
Spec: Arm DEN0137 1.0 and 2.0-bet3 (RMM), RMI_VERSION.
"""

from typing import Final

VERSION_1_0: Final = 0x1_0000  # major << 16 | minor
VERSION_2_0: Final = 0x2_0000
BETA: Final = "bet3"

#: The revisions that a host can choose, by name.
REVISIONS: Final = {"1.0": VERSION_1_0, "2.0": VERSION_2_0}
