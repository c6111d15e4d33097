/* A parcel label: the name is the message, the city is the last word of the subject (labels.berlin) */
#include "../../sdk/atmo.h"

static void run(bytes input) {
    bytes subject = get_field(META, text("url")), city = {0, 0};
    while (next_piece(&subject, '.', &city)) { /* the last one stays in `city` */
    }
    for (size_t i = 0; i < city.size; i++)
        if (city.data[i] >= 'a' && city.data[i] <= 'z') city.data[i] -= 'a' - 'A';
    bytes label = text("[ ");
    append(&label, input);
    append(&label, text(" | "));
    append(&label, city);
    append(&label, text(" ]"));
    return_result(label);
}
