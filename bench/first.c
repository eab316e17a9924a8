/* What every guest of the bench runs first: it notes the time at which it began in its own root, then becomes the real
 * init. The clock is the host's: no guest here has a time namespace.
 *
 *   first                   note /first, become systemd
 *   first --mark FILE       note FILE
 *   first --fill N DIR      make N small files, and leave them unsynced
 *   first --binds FILE      bind each path of FILE, which lies below /persistent, to its place below /; then as `first`
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int mark(const char *file, const struct timespec *now)
{
    char text[64], half[256];
    int length = snprintf(text, sizeof text, "%lld\n", now->tv_sec * 1000000000LL + now->tv_nsec);
    snprintf(half, sizeof half, "%s.half", file);
    int fd = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, length) != length || close(fd) != 0)
        return 1;
    return rename(half, file) != 0;
}

static int fill(long count, const char *directory)
{
    char name[256], text[512];
    memset(text, 'x', sizeof text);
    mkdir(directory, 0755);
    for (long n = 0; n < count; n++) {
        if (n % 1000 == 0) {
            snprintf(name, sizeof name, "%s/%ld", directory, n / 1000);
            mkdir(name, 0755);
        }
        snprintf(name, sizeof name, "%s/%ld/%ld", directory, n / 1000, n);
        int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0 || write(fd, text, sizeof text) != sizeof text || close(fd) != 0) {
            perror(name);
            return 1;
        }
    }
    return 0;
}

/* What a thousand declarations come down to at the least: a directory and a mount each. */
static int binds(const char *file)
{
    char line[512], from[600];
    FILE *list = fopen(file, "re");
    if (!list)
        return 1;
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        snprintf(from, sizeof from, "/persistent%s", line);
        for (char *at = line + 1; (at = strchr(at, '/')); at++) {
            *at = 0;
            mkdir(line, 0755);
            *at = '/';
        }
        mkdir(line, 0755);
        if (mount(from, line, NULL, MS_BIND, NULL)) {
            perror(line);
            return 1;
        }
    }
    fclose(list);
    return 0;
}

int main(int count, char **words)
{
    struct timespec now;
    if (count == 3 && strcmp(words[1], "--binds") == 0) {
        if (binds(words[2]))
            return 1;
        words[1] = NULL;
        count = 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (count == 3 && strcmp(words[1], "--mark") == 0)
        return mark(words[2], &now);
    if (count == 4 && strcmp(words[1], "--fill") == 0)
        return fill(atol(words[2]), words[3]);
    if (mark("/first", &now))
        perror("/first");
    words[0] = "/sbin/init";
    execv("/lib/systemd/systemd", words);
    perror("/lib/systemd/systemd");
    return 1;
}
