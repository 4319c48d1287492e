"""The context of a PE: registers, interrupts, timers.  No PE runs it meanwhile."""

from collections.abc import Iterator
from typing import Final

from pyvmm.arch import gic
from pyvmm.arch.bits import MASK64, Register
from pyvmm.arch.hcr import CNTHCTL_EL2, CPTR_EL2, HCR_EL2, MDCR_EL2
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import Pas
from pyvmm.arch.pictures import GicPicture, InterruptPicture, PePicture, TimerPicture
from pyvmm.arch.pmu import PMCR_EL0, PMEVTYPER_EL0, PmuEvent
from pyvmm.arch.pstate import describe_pstate
from pyvmm.arch.stage2 import VTCR_EL2
from pyvmm.arch.sysregs import SYSREGS
from pyvmm.arch.timer import CNT_CTL

_NUM_GPRS: Final = 31
_SIGN: Final = 1 << 63
_NAMES: Final = {
    gic.PPI_VIRTUAL_TIMER: "virtual timer",
    gic.PPI_PHYSICAL_TIMER: "physical timer",
    gic.PPI_PMU: "PMU",
}
_CONTROLS: Final[dict[str, type[Register]]] = {
    "hcr_el2": HCR_EL2,
    "vtcr_el2": VTCR_EL2,
    "cptr_el2": CPTR_EL2,
    "cnthctl_el2": CNTHCTL_EL2,
    "mdcr_el2": MDCR_EL2,
}
_PLAIN_CONTROLS: Final = ("vttbr_el2", "vmpidr_el2", "vpidr_el2", "cntvoff_el2")


def pe_picture(index: int, context: PeContext) -> PePicture:
    """Return all registers."""
    registers = {"pc": context.pc, "sp_el0": context.sp_el0, "sp_el1": context.sp_el1}
    registers |= {f"x{n}": context.x[n] for n in range(_NUM_GPRS)}
    return PePicture(
        index=index,
        world=Pas(context.security).name,
        pstate=describe_pstate(context.pstate),
        registers={name: _hex(value) for name, value in registers.items()},
        system={row.name: _hex(getattr(context, row.saved)) for row in SYSREGS if row.saved},
        controls=dict(_controls(context)),
        pmu={} if context.mdcr_el2 & MDCR_EL2.TPM.mask else dict(_pmu(context)),
    )


def _pmu(context: PeContext) -> Iterator[tuple[str, str]]:
    """Yield the performance monitors; each counter with its event and levels."""
    control = PMCR_EL0(context.pmcr)
    yield "PMCR_EL0", f"{control:#x} {_set_fields(control)}".strip()
    for name in ("PMCNTENSET_EL0", "PMINTENSET_EL1", "PMOVSSET_EL0"):
        yield name, hex(getattr(context, name.lower()[:-4]))
    yield "PMCCNTR_EL0", _counter(context.pmccntr, context.pmccfiltr, PmuEvent.CPU_CYCLES.name)
    for n in range(MDCR_EL2(context.mdcr_el2).HPMN):
        type_ = context.pmevtyper[n]
        event = PMEVTYPER_EL0.EVENT.decode(type_)
        name = PmuEvent(event).name if event in set(PmuEvent) else f"event {event:#x}"
        yield f"PMEVCNTR{n}_EL0", _counter(context.pmevcntr[n], type_, name)


def _counter(value: int, type_: int, event: str) -> str:
    levels = {"EL0": PMEVTYPER_EL0.U.mask, "EL1": PMEVTYPER_EL0.P.mask}
    counted = [level for level, mask in levels.items() if not type_ & mask]
    return f"{value:#x} {event} at {' and '.join(counted) or 'no level'}"


def _controls(context: PeContext) -> Iterator[tuple[str, str]]:
    for name, register in _CONTROLS.items():
        value = register(getattr(context, name))
        yield name.upper(), f"{value:#x} {_set_fields(value)}".strip()
    for name in _PLAIN_CONTROLS:
        yield name.upper(), hex(getattr(context, name))


def _set_fields(value: Register) -> str:
    """Return the fields that are not zero."""
    shown = []
    for each in value.fields():
        number = int(each.decode(value))
        if number:
            shown.append(each.name if each.width == 1 else f"{each.name}={number:#x}")
    return " ".join(shown)


def gic_picture(index: int, context: PeContext) -> GicPicture:
    """Return the list registers in use and the state of the virtual CPU interface."""
    vmcr = gic.ICH_VMCR_EL2(context.ich_vmcr)
    return GicPicture(
        index=index,
        list_registers=list(_list_registers(context)),
        controls={
            "ICH_HCR_EL2": hex(context.ich_hcr),
            "ICH_VMCR_EL2": f"{vmcr:#x} {_set_fields(vmcr)}".strip(),
            "ICH_MISR_EL2": hex(context.ich_misr),
        },
    )


def _list_registers(context: PeContext) -> Iterator[InterruptPicture]:
    states = {0: "", 1: "pending", 2: "active", 3: "pending and active"}
    for n in range(gic.NUM_LRS):
        lr = context.ich_lr[n]
        state = states[lr >> 62]
        if state:
            intid = lr & gic.ICH_LR_INTID_MASK
            yield InterruptPicture(
                register=f"ICH_LR{n}_EL2",
                intid=intid,
                name=_name(intid),
                state=state,
                priority=lr >> gic.ICH_LR_PRIORITY_SHIFT & 0xFF,
                group=int(bool(lr & gic.ICH_LR_GROUP1)),
            )


def _name(intid: int) -> str:
    if intid in _NAMES:
        return _NAMES[intid]
    if intid < gic.NUM_SGIS:
        return f"SGI {intid}"
    if intid < gic.NUM_PRIVATE:
        return f"PPI {intid - gic.NUM_SGIS}"
    if intid >= gic.FIRST_LPI_INTID:
        return f"LPI {intid}"
    return f"SPI {intid - gic.NUM_PRIVATE}"


def timer_pictures(
    index: int, context: PeContext, counter: int, frequency: int
) -> list[TimerPicture]:
    """Return the timers, given CNTPCT in ticks and its frequency in Hz."""
    virtual = counter - context.cntvoff_el2 & MASK64
    return [
        _timer(index, "virtual", context.cntv_ctl, context.cntv_cval, virtual, frequency),
        _timer(index, "physical", context.cntp_ctl, context.cntp_cval, counter, frequency),
    ]


def _timer(
    index: int, name: str, ctl: int, compare: int, counter: int, frequency: int
) -> TimerPicture:
    control = CNT_CTL(ctl)
    left = (compare - counter + _SIGN & MASK64) - _SIGN  # signed, as the comparison is
    is_due = control.ENABLE and left <= 0
    return TimerPicture(
        index=index,
        name=name,
        is_enabled=control.ENABLE,
        is_masked=control.IMASK,
        is_asserted=is_due and not control.IMASK,
        compare=hex(compare),
        counter=hex(counter),
        due=left / frequency,
    )


def _hex(value: int) -> str:
    return f"{value:#018x}"
