/* "NAME" → the state's value of that name; "NAME=VALUE" → sets it for the steps that follow and answers VALUE */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    bytes name, value;
    if (split(input, '=', &name, &value))
        set_field(STATE, name, value);
    else
        value = get_field(STATE, name);
    return_result(value);
}
