/* The agent's child processes: become a program, or get a report from Linux's configfs-tsm. */
#include "agent.h"

#define REPORTS "/sys/kernel/config/tsm/report"

enum { NOT_EXECUTABLE = 126, NOT_FOUND = 127 }; /* as env(1) and shells exit */

const char *find_variable(char **env, const char *name) {
    size_t size = text_size(name);
    for (; *env; env++)
        if (text_starts(*env, name) && (*env)[size] == '=')
            return *env + size + 1;
    return NULL;
}

/* returns the error from the last directory that contains the program, or ENOENT. */
static int exec_from(const char *directories, char **argv, char **env) {
    int error = -ENOENT;
    while (*directories) {
        char path[4096] = "";
        size_t size = 0;
        while (*directories && *directories != ':' && size + 1 < sizeof path)
            path[size++] = *directories++;
        path[size] = 0;
        while (*directories && *directories++ != ':')
            ;
        text_append(path, sizeof path, size ? "/" : "./");
        text_append(path, sizeof path, argv[0]);
        int result = sys_execve(path, argv, env);
        if (result != -ENOENT && result != -ENOTDIR)
            error = result;
    }
    return error;
}

_Noreturn void run_program(const char *directory, char **argv, char **env) {
    int error = *directory ? sys_chdir(directory) : 0;
    if (error < 0) {
        complain(directory, error_text(-error));
        sys_exit(NOT_EXECUTABLE);
    }
    bool is_path = false;
    for (const char *c = argv[0]; *c; c++)
        is_path |= *c == '/';
    const char *directories = find_variable(env, "PATH");
    error = is_path || !directories ? sys_execve(argv[0], argv, env) : exec_from(directories, argv, env);
    complain(argv[0], error_text(-error));
    sys_exit(error == -ENOENT ? NOT_FOUND : NOT_EXECUTABLE);
}

/* ---- attestation ---- */

static int open_in(const char *directory, const char *name, int flags) {
    char path[128] = "";
    text_append(path, sizeof path, directory);
    text_append(path, sizeof path, name);
    return sys_open(path, flags);
}

/* Exchanges the challenge for a report in a directory of the kernel's. */
static const char *report_in(const char *directory, const uint8_t *challenge, uint8_t *data, size_t size,
                             size_t *total) {
    int in = open_in(directory, "/inblob", O_WRONLY);
    if (in < 0 || sys_write(in, challenge, CHALLENGE_SIZE) != CHALLENGE_SIZE)
        return "Linux rejects the challenge";
    sys_close(in);
    int out = open_in(directory, "/outblob", O_RDONLY);
    if (out < 0)
        return "Linux provides no token";
    long more = 0;
    for (*total = 0; *total < size && (more = sys_read(out, data + *total, size - *total)) > 0; *total += (size_t)more)
        ;
    sys_close(out);
    return more == 0 && *total ? NULL : error_text((int)(more < 0 ? -more : EIO));
}

const char *get_report(const uint8_t *challenge, uint8_t *data, size_t size, size_t *total) {
    char directory[96] = REPORTS "/pyvmm-agent-";
    text_append_number(directory, sizeof directory, (unsigned)sys_getpid());
    if (sys_mkdir(directory) < 0)
        return "this guest is not a realm, or the module arm-cca-guest is not loaded";
    const char *problem = report_in(directory, challenge, data, size, total);
    sys_rmdir(directory);
    return problem;
}

_Noreturn void run_attestation(const uint8_t *challenge) {
    static uint8_t token[64 << 10];
    size_t size = 0, done = 0;
    const char *problem = get_report(challenge, token, sizeof token, &size);
    for (long more; !problem && done < size; done += (size_t)more)
        if ((more = sys_write(1, token + done, size - done)) <= 0)
            problem = "cannot write the token";
    if (problem)
        complain(REPORTS, problem);
    sys_exit(problem != NULL);
}
