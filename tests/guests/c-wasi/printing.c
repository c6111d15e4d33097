/* A Runnable with a libc (a WASI reactor): each line of its input is printed by stdio, to stdout; "!line" to stderr */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((import_module("env"), import_name("return_result"))) void return_result(const void *, size_t, int32_t);

__attribute__((export_name("allocate"))) void *allocate(size_t size) { return malloc(size ? size : 1); }

__attribute__((export_name("deallocate"))) void deallocate(void *pointer, size_t size) {
    (void)size;
    free(pointer);
}

__attribute__((export_name("run_e"))) void run_e(const char *data, size_t size, int32_t ident) {
    static const char done[] = "printed";
    while (size) {
        const char *newline = memchr(data, '\n', size);
        const size_t length = newline ? (size_t)(newline - data) : size;
        const int to_stderr = length && data[0] == '!';
        fprintf(to_stderr ? stderr : stdout, "%.*s\n", (int)length - to_stderr, data + to_stderr);
        data += length + (newline != NULL);
        size -= length + (newline != NULL);
    }
    fflush(stdout);
    return_result(done, sizeof done - 1, ident);
}
