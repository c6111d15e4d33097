// Lines "LEVEL text" (error, warn, info, debug) are logged; answers how many there were
import { Level, log, register } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

register((input: ArrayBuffer): ArrayBuffer | null => {
  const lines = String.UTF8.decode(input).split("\n")
  let count = 0
  for (let i = 0; i < lines.length; i++) {
    const space = lines[i].indexOf(" ")
    if (space < 0) continue
    const level = lines[i].substring(0, space)
    const message = lines[i].substring(space + 1)
    if (level == "error") log(Level.ERROR, message)
    else if (level == "warn") log(Level.WARN, message)
    else if (level == "info") log(Level.INFO, message)
    else if (level == "debug") log(Level.DEBUG, message)
    count++
  }
  return String.UTF8.encode(count.toString())
})
