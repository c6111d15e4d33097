/* "header:NAME params:NAME state:NAME query:NAME body:NAME …" →
 * {"method":"…","url":"…","id":"…","fields":{"header:NAME":"…",…}} */
#include "../../../examples/sdk/atmo.h"

static bytes field_named(bytes name) {
    static const struct {
        const char *prefix;
        enum field type;
    } kinds[] = {{"meta:", META},     {"body:", BODY},   {"header:", HEADER},
                 {"params:", PARAMS}, {"state:", STATE}, {"query:", QUERY}};
    bytes kind, key;
    if (!split(name, ':', &kind, &key)) return (bytes){0, 0};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (starts_with(name, kinds[i].prefix)) return get_field(kinds[i].type, key);
    return (bytes){0, 0};
}

static void run(bytes input) {
    bytes answer = text("{\"method\":"), name;
    append_json(&answer, get_field(META, text("method")));
    append(&answer, text(",\"url\":"));
    append_json(&answer, get_field(META, text("url")));
    append(&answer, text(",\"id\":"));
    append_json(&answer, get_field(META, text("id")));
    append(&answer, text(",\"fields\":{"));
    for (int first = 1; next_piece(&input, ' ', &name); first = 0) {
        if (!first) append(&answer, text(","));
        append_json(&answer, name);
        append(&answer, text(":"));
        append_json(&answer, field_named(name));
    }
    append(&answer, text("}}"));
    return_result(answer);
}
