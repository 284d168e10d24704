/*
 * Runs a fuzz target over the files of the directories given, and over nothing at all: what the
 * fuzzers once found stays a test of every ordinary build.
 */
#include "base/buf.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    __attribute__((cleanup(buf_done_cleanup))) struct buf b = {0};
    size_t n;
    do {
        if (buf_reserve(&b, 65536) < 0)
            break;
        n = fread(b.data + b.len, 1, 65536, f);
        b.len += n;
    } while (n > 0);
    fclose(f);
    LLVMFuzzerTestOneInput((const uint8_t *)buf_text(&b), b.len);
    return 0;
}

static int run_directory(const char *path, unsigned *n_files)
{
    DIR *dir = opendir(path);
    if (!dir) {
        perror(path);
        return 1;
    }
    int failed = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char file[PATH_MAX];
        if (e->d_name[0] == '.')
            continue;
        snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
        failed |= run_file(file);
        ++*n_files;
    }
    closedir(dir);
    return failed;
}

int main(int argc, char **argv)
{
    unsigned n_files = 0;
    int failed = 0;
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++)
        failed |= run_directory(argv[i], &n_files);
    printf("%u inputs\n", n_files);
    return failed || n_files == 0;
}
