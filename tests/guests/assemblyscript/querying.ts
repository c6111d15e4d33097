// Blocks, an empty line between two: "KIND NAME", then a variable on each line → the queries' JSON, joined by newlines.
// An error of a query → error 500 with its text, or "! " and the text in place of JSON after "try KIND NAME". A last line
// "fail" → then error 422, "trap" → then a trap, "loop" → then an endless loop.
import { Answer, Query, addVariable, dbExec, fail, register } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

const kinds = ["insert", "select", "update", "delete"]

function query(lines: string[]): Answer {
  const space = lines[0].indexOf(" ")
  for (let i = 1; i < lines.length; i++) addVariable("value", lines[i])
  const kind = kinds.indexOf(lines[0].substring(0, space))
  return dbExec(<Query>kind, lines[0].substring(space + 1))
}

register((input: ArrayBuffer): ArrayBuffer | null => {
  const lines = String.UTF8.decode(input).split("\n")
  const last = lines[lines.length - 1]
  const end = last == "fail" || last == "trap" || last == "loop" ? last : ""
  if (end.length) lines.pop()
  const blocks = lines.join("\n").split("\n\n")
  const results: string[] = []
  for (let i = 0; i < blocks.length; i++) {
    const written = blocks[i].split("\n").filter((line) => line.length > 0)
    if (!written.length) continue
    const tries = written[0].startsWith("try ")
    if (tries) written[0] = written[0].substring(4)
    const rows = query(written)
    if (rows.failed && !tries) return fail(500, rows.text)
    results.push(rows.failed ? "! " + rows.text : rows.text)
  }
  if (end == "trap") unreachable()
  while (end == "loop") {}
  if (end == "fail") return fail(422, "told to fail")
  return String.UTF8.encode(results.join("\n"))
})
