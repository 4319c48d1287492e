// Prints as Arm's test suites do, so that tools/conformance.py has something to run.
#include "el2.h"

void take_interrupt(void);

void secondary(uint64_t index) {
    (void)index;
}

void die(uint64_t esr, uint64_t far, uint64_t elr) {
    (void)esr, (void)far, (void)elr;
    power_off();
}

void main(void) {
    print("\n\nSuite=command : Test=cmd_version\n\tResult => Passed\n");
    print("Suite=command : Test=cmd_rtt_fold\n\tCheck failed, line:7\n\tResult => Failed (Error Code=1)\n");
    print("> Executing 'RMI version'\n  TEST COMPLETE                    Passed\n");
    print("> Executing 'PMU'\n  TEST COMPLETE                    Skipped\n");
    print("Suite=gic : Test=gic_hangs\n");
}
