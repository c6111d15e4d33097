/* The Runnable ABI for freestanding C: one file, no libc. A Runnable includes it and defines `run`.
 *
 * Memory: one heap that only moves its top. What `run` takes is given back as a whole when it returns (the host copies
 * results at once), the input is given back by the host's `deallocate`. So memory stays flat over any number of calls.
 */
#ifndef ATMO_H
#define ATMO_H

#include <stddef.h>
#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

typedef struct {
    uint8_t *data;
    size_t size;
} bytes;

enum field { META = 0, BODY = 1, HEADER = 2, PARAMS = 3, STATE = 4, QUERY = 5 };
enum level { ERROR = 1, WARN = 2, INFO = 3, DEBUG = 4 };
enum query { INSERT = 0, SELECT = 1, UPDATE = 2, DELETE = 3 };

IMPORT(return_result) void host_return_result(const uint8_t *data, size_t size, int32_t ident);
IMPORT(return_error) void host_return_error(int32_t code, const uint8_t *message, size_t size, int32_t ident);
IMPORT(get_ffi_result) int32_t host_get_ffi_result(uint8_t *target, int32_t ident);
IMPORT(request_get_field)
int32_t host_request_get_field(int32_t type, const uint8_t *key, size_t size, int32_t ident);
IMPORT(request_set_field)
int32_t host_request_set_field(int32_t type, const uint8_t *key, size_t key_size, const uint8_t *value,
                               size_t value_size, int32_t ident);
IMPORT(resp_set_header)
void host_resp_set_header(const uint8_t *key, size_t key_size, const uint8_t *value, size_t value_size, int32_t ident);
IMPORT(log_msg) void host_log_msg(const uint8_t *message, size_t size, int32_t level, int32_t ident);
IMPORT(cache_get) int32_t host_cache_get(const uint8_t *key, size_t size, int32_t ident);
IMPORT(cache_set)
int32_t host_cache_set(const uint8_t *key, size_t key_size, const uint8_t *value, size_t value_size, int32_t ttl_s,
                       int32_t ident);
IMPORT(add_ffi_var)
int32_t host_add_ffi_var(const uint8_t *name, size_t name_size, const uint8_t *value, size_t value_size,
                         int32_t ident);
IMPORT(db_exec) int32_t host_db_exec(int32_t type, const uint8_t *name, size_t size, int32_t ident);
IMPORT(get_secret_value) int32_t host_get_secret_value(const uint8_t *key, size_t size, int32_t ident);

/* Defined by the Runnable. It calls return_result or return_error at most once; neither means: no output. */
static void run(bytes input);

extern uint8_t __heap_base;
static uintptr_t heap_top;
static int32_t current_ident;

/* Never NULL: a refused growth traps, as it does in the allocators of larger languages. */
EXPORT(allocate) void *allocate(size_t size) {
    if (heap_top == 0) heap_top = ((uintptr_t)&__heap_base + 7) & ~(uintptr_t)7;
    const uintptr_t start = heap_top, end = start + ((size + 7) & ~(size_t)7);
    if (end < start) __builtin_trap();
    const uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + 65535) >> 16) == (size_t)-1) __builtin_trap();
    heap_top = end;
    return (void *)start;
}

EXPORT(deallocate) void deallocate(void *pointer, size_t size) {
    if ((uintptr_t)pointer + ((size + 7) & ~(size_t)7) == heap_top) heap_top = (uintptr_t)pointer;
}

EXPORT(run_e) void run_e(uint8_t *data, size_t size, int32_t ident) {
    const uintptr_t before = heap_top;
    current_ident = ident;
    run((bytes){data, size});
    heap_top = before;
}

/* --- what a Runnable uses --- */

static inline size_t length_of(const char *text) {
    size_t size = 0;
    while (text[size]) size++;
    return size;
}

static inline bytes text(const char *literal) { return (bytes){(uint8_t *)literal, length_of(literal)}; }

static inline int starts_with(bytes value, const char *prefix) {
    for (size_t i = 0; prefix[i]; i++)
        if (i == value.size || value.data[i] != (uint8_t)prefix[i]) return 0;
    return 1;
}

static inline void return_result(bytes result) { host_return_result(result.data, result.size, current_ident); }

static inline void return_error(int32_t code, bytes message) {
    host_return_error(code, message.data, message.size, current_ident);
}

static inline void log_message(enum level level, bytes message) {
    host_log_msg(message.data, message.size, level, current_ident);
}

static inline void set_header(bytes name, bytes value) {
    host_resp_set_header(name.data, name.size, value.data, value.size, current_ident);
}

/* What the host answers: the value, or the text of the error when `failed`. */
typedef struct {
    int failed;
    bytes value;
} answer;

/* Fetches the answer that a host function's number announces: its size, or minus the size of an error text. */
static inline answer fetched(int32_t size) {
    if (size == -1) return (answer){1, text("the host failed")};
    const size_t room = size < 0 ? (size_t)-size : (size_t)size;
    const answer result = {size < 0, {allocate(room), room}};
    if (room) host_get_ffi_result(result.value.data, current_ident);
    return result;
}

/* A field of the request; empty when there is none or the host refused. */
static inline bytes get_field(enum field type, bytes key) {
    const answer field = fetched(host_request_get_field(type, key.data, key.size, current_ident));
    return field.failed ? (bytes){0, 0} : field.value;
}

static inline void set_field(enum field type, bytes key, bytes value) {
    host_request_set_field(type, key.data, key.size, value.data, value.size, current_ident);
}

/* The cached value of a key; a key that is not there is the error `key not found`. */
static inline answer cache_get(bytes key) { return fetched(host_cache_get(key.data, key.size, current_ident)); }

/* Keeps a value for so many seconds, 0: for ever. Returns 0 when the host refused, which gives no reason here. */
static inline int cache_set(bytes key, bytes value, uint32_t ttl_s) {
    return host_cache_set(key.data, key.size, value.data, value.size, (int32_t)ttl_s, current_ident) == 0;
}

/* A secret that the Directive gives to functions. */
static inline answer get_secret(bytes key) { return fetched(host_get_secret_value(key.data, key.size, current_ident)); }

/* The next variable of the query that follows; the order counts, the name is for people. */
static inline void add_variable(bytes name, bytes value) {
    host_add_ffi_var(name.data, name.size, value.data, value.size, current_ident);
}

/* Runs a query of the Directive with the variables added since the last one. As JSON: an array with an object for each
 * row, or {"lastInsertID":n,"rowsAffected":n}. */
static inline answer db_exec(enum query type, bytes name) {
    return fetched(host_db_exec(type, name.data, name.size, current_ident));
}

/* `target` followed by `more`, in new memory: both stay as they are, so `target` may be a literal. */
static inline void append(bytes *target, bytes more) {
    uint8_t *room = allocate(target->size + more.size);
    __builtin_memcpy(room, target->data, target->size);
    __builtin_memcpy(room + target->size, more.data, more.size);
    *target = (bytes){room, target->size + more.size};
}

static inline void append_number(bytes *target, uint32_t number) {
    uint8_t digits[10];
    size_t at = sizeof digits;
    do digits[--at] = (uint8_t)('0' + number % 10);
    while (number /= 10);
    append(target, (bytes){digits + at, sizeof digits - at});
}

/* `value` as a JSON string, with its quotes. */
static inline void append_json(bytes *target, bytes value) {
    static const char hex[] = "0123456789abcdef";
    uint8_t *quoted = allocate(value.size * 6 + 2);
    size_t size = 0;
    quoted[size++] = '"';
    for (size_t i = 0; i < value.size; i++) {
        const uint8_t c = value.data[i];
        if (c == '"' || c == '\\') {
            quoted[size++] = '\\';
            quoted[size++] = c;
        } else if (c < 0x20) {
            const uint8_t escape[] = {'\\', 'u', '0', '0', (uint8_t)hex[c >> 4], (uint8_t)hex[c & 15]};
            for (size_t j = 0; j < sizeof escape; j++) quoted[size++] = escape[j];
        } else {
            quoted[size++] = c;
        }
    }
    quoted[size++] = '"';
    append(target, (bytes){quoted, size});
}

/* Cuts the first piece up to `separator` off `rest`; 0 when `rest` is used up. Empty pieces are passed over. */
static inline int next_piece(bytes *rest, uint8_t separator, bytes *piece) {
    while (rest->size && rest->data[0] == separator) rest->data++, rest->size--;
    if (rest->size == 0) return 0;
    size_t size = 0;
    while (size < rest->size && rest->data[size] != separator) size++;
    *piece = (bytes){rest->data, size};
    rest->data += size;
    rest->size -= size;
    return 1;
}

/* Splits at the first `separator`: 0 and the whole text in `left` when there is none. */
static inline int split(bytes whole, uint8_t separator, bytes *left, bytes *right) {
    for (size_t i = 0; i < whole.size; i++) {
        if (whole.data[i] == separator) {
            *left = (bytes){whole.data, i};
            *right = (bytes){whole.data + i + 1, whole.size - i - 1};
            return 1;
        }
    }
    *left = whole;
    *right = (bytes){0, 0};
    return 0;
}

/* The decimal number at the start of `value`; `digits`, when given, gets how many there were. */
static inline uint32_t number_of(bytes value, size_t *digits) {
    uint32_t number = 0;
    size_t i = 0;
    while (i < value.size && value.data[i] >= '0' && value.data[i] <= '9') number = number * 10 + (value.data[i++] - '0');
    if (digits) *digits = i;
    return number;
}

static inline bytes trimmed(bytes value) {
    while (value.size && value.data[0] <= ' ') value.data++, value.size--;
    while (value.size && value.data[value.size - 1] <= ' ') value.size--;
    return value;
}

#endif
