// The Runnable ABI for AssemblyScript: one file, no package. A guest registers its function and exports what the host calls:
//
//     import { register } from "./atmo"
//     export { allocate, deallocate, run_e } from "./atmo"
//     register((input) => String.UTF8.encode("hello"))
//
// Build with `--use abort=PATH/atmo/onAbort` (this file's path without .ts), so that `throw` becomes the Runnable's error.

// @ts-ignore: decorator
@external("env", "return_result")
declare function hostReturnResult(data: usize, size: i32, ident: i32): void
// @ts-ignore: decorator
@external("env", "return_error")
declare function hostReturnError(code: i32, message: usize, size: i32, ident: i32): void
// @ts-ignore: decorator
@external("env", "return_abort")
declare function hostReturnAbort(
  message: usize, messageSize: i32, file: usize, fileSize: i32, line: i32, column: i32, ident: i32
): void
// @ts-ignore: decorator
@external("env", "get_ffi_result")
declare function hostGetFfiResult(target: usize, ident: i32): i32
// @ts-ignore: decorator
@external("env", "request_get_field")
declare function hostRequestGetField(type: i32, key: usize, size: i32, ident: i32): i32
// @ts-ignore: decorator
@external("env", "request_set_field")
declare function hostRequestSetField(
  type: i32, key: usize, keySize: i32, value: usize, valueSize: i32, ident: i32
): i32
// @ts-ignore: decorator
@external("env", "resp_set_header")
declare function hostRespSetHeader(key: usize, keySize: i32, value: usize, valueSize: i32, ident: i32): void
// @ts-ignore: decorator
@external("env", "log_msg")
declare function hostLogMsg(message: usize, size: i32, level: i32, ident: i32): void
// @ts-ignore: decorator
@external("env", "cache_get")
declare function hostCacheGet(key: usize, size: i32, ident: i32): i32
// @ts-ignore: decorator
@external("env", "cache_set")
declare function hostCacheSet(
  key: usize, keySize: i32, value: usize, valueSize: i32, ttl: i32, ident: i32
): i32
// @ts-ignore: decorator
@external("env", "add_ffi_var")
declare function hostAddFfiVar(name: usize, nameSize: i32, value: usize, valueSize: i32, ident: i32): i32
// @ts-ignore: decorator
@external("env", "db_exec")
declare function hostDbExec(type: i32, name: usize, size: i32, ident: i32): i32
// @ts-ignore: decorator
@external("env", "get_secret_value")
declare function hostGetSecretValue(key: usize, size: i32, ident: i32): i32

/** Answers with bytes, or with null after `fail`; null alone means: no output. */
export type Run = (input: ArrayBuffer) => ArrayBuffer | null

export const enum Field { META = 0, BODY = 1, HEADER = 2, PARAMS = 3, STATE = 4, QUERY = 5 }
export const enum Level { ERROR = 1, WARN = 2, INFO = 3, DEBUG = 4 }
export const enum Query { INSERT = 0, SELECT = 1, UPDATE = 2, DELETE = 3 }

let registered: Run | null = null
let ident: i32 = 0

export function register(run: Run): void {
  registered = run
}

export function allocate(size: i32): usize {
  return heap.alloc(size)
}

export function deallocate(pointer: usize, _size: i32): void {
  heap.free(pointer)
}

export function run_e(pointer: usize, size: i32, callIdent: i32): void {
  ident = callIdent
  const input = new ArrayBuffer(size)
  memory.copy(changetype<usize>(input), pointer, size)
  const run = registered
  const result = run ? run(input) : null
  if (result) hostReturnResult(changetype<usize>(result), result.byteLength, ident)
}

/** Ends the run with an error; `return fail(404, "not found")`. */
export function fail(code: i32, message: string): ArrayBuffer | null {
  const text = String.UTF8.encode(message)
  hostReturnError(code, changetype<usize>(text), text.byteLength, ident)
  return null
}

/** What `throw` and failed checks of AssemblyScript call; the host answers with code -1 and the place. */
export function onAbort(message: string | null, file: string | null, line: u32, column: u32): void {
  const text = String.UTF8.encode(message ? message : "")
  const place = String.UTF8.encode(file ? file : "")
  hostReturnAbort(
    changetype<usize>(text), text.byteLength, changetype<usize>(place), place.byteLength, line, column, ident
  )
}

/** What the host answers: the value, or the text of the error when `failed`. */
export class Answer {
  constructor(readonly failed: bool, readonly value: ArrayBuffer) {}

  get text(): string {
    return String.UTF8.decode(this.value)
  }
}

/** Fetches the answer that a host function's number announces: its size, or minus the size of an error text. */
function fetched(size: i32): Answer {
  if (size == -1) return new Answer(true, String.UTF8.encode("the host failed"))
  const value = new ArrayBuffer(abs(size))
  if (size) hostGetFfiResult(changetype<usize>(value), ident)
  return new Answer(size < 0, value)
}

/** A field of the request; "" when there is none or the host refused. */
export function getField(type: Field, key: string): string {
  const name = String.UTF8.encode(key)
  const field = fetched(hostRequestGetField(type, changetype<usize>(name), name.byteLength, ident))
  return field.failed ? "" : field.text
}

export function setField(type: Field, key: string, value: string): void {
  const name = String.UTF8.encode(key)
  const text = String.UTF8.encode(value)
  hostRequestSetField(
    type, changetype<usize>(name), name.byteLength, changetype<usize>(text), text.byteLength, ident
  )
}

export function setHeader(key: string, value: string): void {
  const name = String.UTF8.encode(key)
  const text = String.UTF8.encode(value)
  hostRespSetHeader(changetype<usize>(name), name.byteLength, changetype<usize>(text), text.byteLength, ident)
}

export function log(level: Level, message: string): void {
  const text = String.UTF8.encode(message)
  hostLogMsg(changetype<usize>(text), text.byteLength, level, ident)
}

/** The cached value of a key; a key that is not there is the error `key not found`. */
export function cacheGet(key: string): Answer {
  const name = String.UTF8.encode(key)
  return fetched(hostCacheGet(changetype<usize>(name), name.byteLength, ident))
}

/** Keeps a value for `ttl` seconds, 0: for ever. False when the host refused, which gives no reason here. */
export function cacheSet(key: string, value: ArrayBuffer, ttl: i32): bool {
  const name = String.UTF8.encode(key)
  return hostCacheSet(
    changetype<usize>(name), name.byteLength, changetype<usize>(value), value.byteLength, ttl, ident
  ) == 0
}

/** A secret that the Directive gives to functions. */
export function getSecret(key: string): Answer {
  const name = String.UTF8.encode(key)
  return fetched(hostGetSecretValue(changetype<usize>(name), name.byteLength, ident))
}

/** The next variable of the query that follows; the order counts, the name is for people. */
export function addVariable(name: string, value: string): void {
  const key = String.UTF8.encode(name)
  const text = String.UTF8.encode(value)
  hostAddFfiVar(changetype<usize>(key), key.byteLength, changetype<usize>(text), text.byteLength, ident)
}

/**
 * Runs a query of the Directive with the variables added since the last one. As JSON: an array with an object for each
 * row, or {"lastInsertID":n,"rowsAffected":n}.
 */
export function dbExec(type: Query, query: string): Answer {
  const name = String.UTF8.encode(query)
  return fetched(hostDbExec(type, changetype<usize>(name), name.byteLength, ident))
}

/** `text` as a JSON string, with its quotes. */
export function json(text: string): string {
  let quoted = '"'
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c == 0x22 || c == 0x5c) quoted += "\\" + text.charAt(i)
    else if (c < 0x20) quoted += "\\u" + c.toString(16).padStart(4, "0")
    else quoted += text.charAt(i)
  }
  return quoted + '"'
}
