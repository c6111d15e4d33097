//! What an order costs: `{"sku":"tea","count":3}` → `{"each":350,"total":1050,"currency":"EUR"}` (cents).
//! 400 for a count that is none, 404 for an article that is not sold.
use suborbital::req;
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct Price;

const PRICES: [(&str, u64); 3] = [("tea", 350), ("kettle", 4900), ("cup", 1200)];

impl Runnable for Price {
    fn run(&self, _body: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        // The farm reads the JSON body for us: a field arrives as text.
        let sku = req::body_field("sku");
        let count: u32 = req::body_field("count").parse().unwrap_or(0);
        if count == 0 {
            return Err(RunErr::new(400, "count must be a number above 0"));
        }
        match PRICES.iter().find(|(name, _)| *name == sku) {
            Some((_, each)) => {
                let total = each * u64::from(count);
                Ok(format!("{{\"each\":{each},\"total\":{total},\"currency\":\"EUR\"}}").into_bytes())
            }
            None => Err(RunErr::new(404, &format!("no such article: {sku}"))),
        }
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&Price);
}
