/*
 * The first process of a root file system for one program: mounts the usual file systems, runs the program on the
 * console, reports its status and powers off.
 *
 * `pyvmm image build rootfs` writes /.pyvmm/entrypoint with the arguments, /.pyvmm/environment with the variables,
 * /.pyvmm/directory with the working directory, and /.pyvmm/user with the numbers of user, group and further groups;
 * each of these strings is terminated by a zero byte.
 */
#include "agent.h"

#define ENTRYPOINT "/.pyvmm/entrypoint"
#define ENVIRONMENT "/.pyvmm/environment"
#define DIRECTORY "/.pyvmm/directory"
#define USER "/.pyvmm/user"

enum { MAX_TEXT = 32768, MAX_STRINGS = 1024, MAX_IDS = 66, ID_DIGITS = 10 };

static const struct {
    const char *kind, *where, *options;
} mounts[] = {
    {"devtmpfs", "/dev", NULL},    {"devpts", "/dev/pts", "gid=5,mode=620"},
    {"tmpfs", "/dev/shm", NULL},   {"proc", "/proc", NULL},
    {"sysfs", "/sys", NULL},       {"configfs", "/sys/kernel/config", NULL},
    {"tmpfs", "/run", "mode=755"}, {"tmpfs", "/tmp", NULL},
};
static const char *const links[][2] = {
    {"/proc/self/fd", "/dev/fd"},
    {"fd/0", "/dev/stdin"},
    {"fd/1", "/dev/stdout"},
    {"fd/2", "/dev/stderr"},
};

static void mount_all(void) {
    for (size_t n = 0; n < sizeof mounts / sizeof *mounts; n++) {
        sys_mkdir(mounts[n].where); /* a failure that matters makes the mount fail */
        int error = sys_mount(mounts[n].kind, mounts[n].where, 0, mounts[n].options);
        bool is_optional = text_equal(mounts[n].kind, "configfs");
        if (error < 0 && error != -EBUSY && !is_optional)
            complain(mounts[n].where, error_text(-error));
    }
    for (size_t n = 0; n < sizeof links / sizeof *links; n++)
        sys_symlink(links[n][0], links[n][1]);
}

static void name_host(void) {
    char name[64];
    size_t size = read_file("/etc/hostname", name, sizeof name);
    while (size && (name[size - 1] == '\n' || name[size - 1] == ' '))
        size--;
    if (size)
        SYSCALL(sethostname, name, size, 0, 0, 0);
}

static void raise_loopback(void) {
    struct ifreq request = {.ifr_name = "lo"};
    int fd = (int)SYSCALL(socket, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0, 0, 0);
    request.ifr_flags = IFF_UP;
    sys_ioctl(fd, SIOCSIFFLAGS, &request);
    sys_close(fd);
}

/* Opens Linux's last console, which can be a controlling terminal, as the standard streams. */
static void take_console(void) {
    char names[128] = "", path[160] = "/dev/";
    size_t size = read_file("/sys/class/tty/console/active", names, sizeof names);
    while (size && names[size - 1] <= ' ')
        names[--size] = 0;
    while (size && names[size - 1] > ' ')
        size--;
    text_append(path, sizeof path, names[size] ? names + size : "console");
    int fd = sys_open(path, O_RDWR);
    for (int n = 0; fd >= 0 && n < 3; n++)
        sys_dup_to(fd, n);
}

/* Reads zero-terminated strings and appends them to `strings`; returns the new count. */
static unsigned read_strings(const char *path, char *text, char **strings, unsigned count) {
    size_t size = read_file(path, text, MAX_TEXT - 1);
    text[size] = 0;
    for (size_t at = 0; at < size && count + 1 < MAX_STRINGS; at += text_size(text + at) + 1)
        strings[count++] = text + at;
    strings[count] = NULL;
    return count;
}

/* Becomes the foreground process group of the console, so that Ctrl-C goes to the program and not to us. */
static void come_to_foreground(void) {
    int group = sys_getpid();
    sys_set_blocked_signals(SIGNAL_BIT(SIGTTOU));
    SYSCALL(setpgid, 0, 0, 0, 0, 0);
    sys_ioctl(0, TIOCSPGRP, &group);
    sys_set_blocked_signals(0);
}

/* returns whether there is a variable of the same name; shells disagree on which of two counts. */
static bool is_set(char **env, const char *assignment) {
    for (; *env; env++) {
        size_t n = 0;
        while ((*env)[n] && (*env)[n] != '=' && (*env)[n] == assignment[n])
            n++;
        if ((*env)[n] == '=' && assignment[n] == '=')
            return true;
    }
    return false;
}

static unsigned number_of(const char *text) {
    unsigned number = 0;
    for (unsigned n = 0; n < ID_DIGITS && text[n] >= '0' && text[n] <= '9'; n++)
        number = number * 10 + (unsigned)(text[n] - '0');
    return number;
}

/* Gives up root for the entry point's user; without one, does nothing. */
static void become_user(void) {
    static char text[MAX_TEXT];
    static char *words[MAX_STRINGS];
    unsigned ids[MAX_IDS], count = read_strings(USER, text, words, 0);
    if (count < 2)
        return;
    for (unsigned n = 0; n < count && n < MAX_IDS; n++)
        ids[n] = number_of(words[n]);
    count = count < MAX_IDS ? count : MAX_IDS;
    if (SYSCALL(setgroups, count - 2, ids + 2, 0, 0, 0) < 0 || SYSCALL(setgid, ids[1], 0, 0, 0, 0) < 0 ||
        SYSCALL(setuid, ids[0], 0, 0, 0, 0) < 0) {
        complain(USER, "cannot become this user");
        sys_exit(126);
    }
}

static _Noreturn void run_entry_point(char **env) {
    static char arguments[MAX_TEXT], variables[MAX_TEXT], directory[MAX_TEXT];
    static char *argv[MAX_STRINGS], *envp[MAX_STRINGS];
    come_to_foreground();
    unsigned count = read_strings(ENVIRONMENT, variables, envp, 0);
    for (; *env && count + 1 < MAX_STRINGS; env++)
        if (!is_set(envp, *env)) {
            envp[count++] = *env;
            envp[count] = NULL;
        }
    if (!read_strings(ENTRYPOINT, arguments, argv, 0)) {
        complain(ENTRYPOINT, "names no program: pyvmm image build rootfs --init writes it");
        sys_exit(127);
    }
    directory[read_file(DIRECTORY, directory, MAX_TEXT - 1)] = 0;
    become_user();
    run_program(*directory ? directory : "/", argv, envp);
}

static void report_end(int status) {
    char text[32] = "";
    int number = signal_of(status);
    text_append(text, sizeof text, number ? "signal " : "exit status ");
    text_append_number(text, sizeof text, (unsigned)(number ? number : exit_code_of(status)));
    complain("the program has ended", text);
    sys_ioctl(2, TCSBRK, (void *)1); /* wait until the console has sent it */
}

static _Noreturn void power_off(void) {
    sys_kill(-1, SIGKILL);
    SYSCALL(sync, 0, 0, 0, 0, 0);
    SYSCALL(mount, 0, "/", 0, MS_REMOUNT | MS_RDONLY, 0);
    for (;;) {
        SYSCALL(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0, 0);
        sys_sleep(1);
    }
}

_Noreturn void run_init(char **env) {
    mount_all();
    name_host();
    raise_loopback();
    sys_setsid(); /* we lead the session: if the program did, its end would discard unsent console output */
    take_console();
    int ended[2] = {-1, -1}, status, pid;
    sys_pipe(ended);
    int agent = sys_fork();
    if (agent == 0) {
        sys_close(ended[1]);
        run_agent(-1, ended[0], CAN_ATTEST, env);
    }
    int program = sys_fork();
    if (program == 0)
        run_entry_point(env);
    do /* the first process also inherits orphans */
        pid = sys_wait(-1, &status, 0);
    while (pid != program && pid != -ECHILD);
    report_end(status);
    sys_write(ended[1], &status, sizeof status);
    sys_close(ended[1]);
    sys_wait(agent, &status, 0); /* until it has sent the status */
    power_off();
}
