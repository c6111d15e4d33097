// input → "hello, " + input
import { register } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

register((input: ArrayBuffer): ArrayBuffer | null => {
  return String.UTF8.encode("hello, " + String.UTF8.decode(input))
})
