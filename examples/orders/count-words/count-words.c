/* Counts words and bytes, like `wc -wc`: plain C, knows nothing of Atmo */
#include <ctype.h>
#include <stdio.h>

int main(void) {
    unsigned long words = 0, size = 0;
    int inside = 0;
    for (int c; (c = getchar()) != EOF; size++) {
        if (!isspace(c) && !inside) words++;
        inside = !isspace(c);
    }
    if (size == 0) {
        fprintf(stderr, "nothing to count\n"); /* goes to the log; the exit status makes the run an error */
        return 1;
    }
    printf("{\"words\":%lu,\"bytes\":%lu}", words, size);
    return 0;
}
