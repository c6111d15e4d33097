//! Calls itself as deep as the input says and answers the depth; without a number, until the stack is used up
#[path = "../../../examples/sdk/atmo.rs"]
mod atmo;
atmo::runnable!(run);

static ONE: u32 = 1;

#[inline(never)]
fn depth(until: u32) -> u32 {
    // Read anew after the inner call, so that the compiler cannot make a loop of it.
    let one = || unsafe { std::ptr::read_volatile(&ONE) };
    if until == one() {
        one()
    } else {
        depth(until.wrapping_sub(one())) + one()
    }
}

fn run(input: &[u8]) -> atmo::Answer {
    let until = std::str::from_utf8(input).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(depth(until).to_string().into_bytes())
}
