/* A WASI command: writes what it was asked to stderr and exits with the number that it reads from stdin */
#include <unistd.h>

int main(void) {
    static char input[64];
    const ssize_t size = read(0, input, sizeof input);
    int status = 0;
    for (ssize_t i = 0; i < size && input[i] >= '0' && input[i] <= '9'; i++) status = status * 10 + (input[i] - '0');
    static const char asked[] = "asked to exit with ";
    write(2, asked, sizeof asked - 1);
    if (size > 0) write(2, input, (size_t)size);
    write(2, "\n", 1);
    return status;
}
