"""The generic timer's control registers, CNTV_CTL_EL0 and CNTP_CTL_EL0.

Spec: Arm ARM DDI 0487, "The Generic Timer in AArch64 state".
"""

from typing import Final

CTL_FIELDS: Final = 0b111  # ENABLE, IMASK, ISTATUS
CTL_ASSERTED: Final = 0b101  # enabled, not masked, condition met: the output is high
