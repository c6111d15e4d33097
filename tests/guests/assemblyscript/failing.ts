// "CODE message" → return_error(CODE, message); "throw message" → throws; without a code: 400
import { fail, register } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

register((input: ArrayBuffer): ArrayBuffer | null => {
  const text = String.UTF8.decode(input)
  const space = text.indexOf(" ")
  const first = space < 0 ? text : text.substring(0, space)
  const rest = space < 0 ? "" : text.substring(space + 1)
  if (first == "throw") throw new Error(rest)
  const code = parseInt(first)
  return isNaN(code) ? fail(400, "the input has no code") : fail(<i32>code, rest)
})
