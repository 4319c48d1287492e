/*
 * The first process of the test guest: runs the programs that the kernel's command line names, one after the other,
 * and powers the machine off.
 */
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

static int run(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/programs/%s", name);
    pid_t child = fork();
    if (child == 0) {
        execl(path, path, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

int main(int count, char **names) {
    setvbuf(stdout, NULL, _IONBF, 0);
    mount("proc", "/proc", "proc", 0, NULL);
    for (int k = 1; k < count; k++) {
        printf("<<< %s\n", names[k]);
        printf(">>> %d\n", run(names[k]));
    }
    reboot(RB_POWER_OFF);
    return 0;
}
