//! The Runnable ABI in plain Rust: no crate. A guest says `mod atmo; atmo::runnable!(run);` with a function
//! `fn run(input: &[u8]) -> Result<Vec<u8>, (i32, String)>`.
//!
//! The host owns the input: it takes it with `allocate` and gives it back with `deallocate` after the run.

mod host {
    #[link(wasm_import_module = "env")]
    extern "C" {
        pub fn return_result(data: *const u8, size: usize, ident: i32);
        pub fn return_error(code: i32, message: *const u8, size: usize, ident: i32);
    }
}

pub type Answer = Result<Vec<u8>, (i32, String)>;

/// # Safety
/// `data` and `size` are what the host wrote into memory taken with `allocate`.
pub unsafe fn enter(run: fn(&[u8]) -> Answer, data: *const u8, size: usize, ident: i32) {
    match run(std::slice::from_raw_parts(data, size)) {
        Ok(result) => host::return_result(result.as_ptr(), result.len(), ident),
        Err((code, message)) => host::return_error(code, message.as_ptr(), message.len(), ident),
    }
}

#[no_mangle]
pub extern "C" fn allocate(size: usize) -> *mut u8 {
    let mut block = Vec::with_capacity(size);
    let start = block.as_mut_ptr();
    std::mem::forget(block);
    start
}

/// # Safety
/// `data` came from `allocate(size)`.
#[no_mangle]
pub unsafe extern "C" fn deallocate(data: *mut u8, size: usize) {
    drop(Vec::from_raw_parts(data, 0, size));
}

macro_rules! runnable {
    ($run:ident) => {
        /// # Safety
        /// Called by the host with an input that it wrote into memory taken with `allocate`.
        #[no_mangle]
        pub unsafe extern "C" fn run_e(data: *const u8, size: usize, ident: i32) {
            crate::atmo::enter($run, data, size, ident);
        }
    };
}
pub(crate) use runnable;
