/* Blocks, an empty line between two: "KIND NAME", then a variable on each line → the queries' JSON, joined by newlines.
 * An error of a query → return_error(500, its text), or "! " and the text in place of JSON after "try KIND NAME". A last
 * line "fail" → then return_error(422, "told to fail"), "trap" → then a trap, "loop" → then an endless loop. */
#include "../../../examples/sdk/atmo.h"

/* Cuts the first line off `rest`; it may be empty. */
static bytes line_of(bytes *rest) {
    bytes line;
    split(*rest, '\n', &line, rest);
    return line;
}

static int is(bytes value, const char *wanted) { return value.size == length_of(wanted) && starts_with(value, wanted); }

/* Takes `word` off the end of the input if it is the last line. */
static int ends_with_line(bytes *input, const char *word) {
    const size_t size = length_of(word);
    if (input->size < size) return 0;
    const size_t start = input->size - size;
    if (!starts_with((bytes){input->data + start, size}, word)) return 0;
    if (start && input->data[start - 1] != '\n') return 0;
    input->size = start;
    return 1;
}

static answer query(bytes head, bytes *rest) {
    static const char *const kinds[] = {"insert", "select", "update", "delete"};
    bytes kind, name;
    split(head, ' ', &kind, &name);
    while (rest->size && rest->data[0] != '\n') add_variable(text("value"), line_of(rest));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (is(kind, kinds[i])) return db_exec((enum query)i, name);
    return db_exec((enum query)number_of(kind, 0), name); /* so that a number that is no type can be tried */
}

static void run(bytes input) {
    const int fails = ends_with_line(&input, "fail"), traps = ends_with_line(&input, "trap"),
              loops = ends_with_line(&input, "loop");
    bytes result = {0, 0};
    for (int first = 1; input.size;) {
        bytes head = line_of(&input);
        if (!head.size) continue;
        const int tries = starts_with(head, "try ");
        if (tries) head.data += 4, head.size -= 4;
        const answer rows = query(head, &input);
        if (rows.failed && !tries) {
            return_error(500, rows.value);
            return;
        }
        if (!first) append(&result, text("\n"));
        if (rows.failed) append(&result, text("! "));
        append(&result, rows.value);
        first = 0;
    }
    if (traps) __builtin_trap();
    while (loops) {
    }
    if (fails)
        return_error(422, text("told to fail"));
    else
        return_result(result);
}
