//! The Runnable ABI in plain Rust: no crate. A guest says `mod atmo; atmo::runnable!(run);` with a function
//! `fn run(input: &[u8]) -> Result<Vec<u8>, (i32, String)>`.
//!
//! The host owns the input: it takes it with `allocate` and gives it back with `deallocate` after the run.
#![allow(dead_code)] // no guest uses all of it

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

mod host {
    #[link(wasm_import_module = "env")]
    extern "C" {
        pub fn return_result(data: *const u8, size: usize, ident: i32);
        pub fn return_error(code: i32, message: *const u8, size: usize, ident: i32);
        pub fn get_ffi_result(target: *mut u8, ident: i32) -> i32;
        pub fn cache_get(key: *const u8, size: usize, ident: i32) -> i32;
        pub fn cache_set(
            key: *const u8, key_size: usize, value: *const u8, value_size: usize, ttl: i32, ident: i32,
        ) -> i32;
        pub fn add_ffi_var(
            name: *const u8, name_size: usize, value: *const u8, value_size: usize, ident: i32,
        ) -> i32;
        pub fn db_exec(kind: i32, name: *const u8, size: usize, ident: i32) -> i32;
        pub fn get_secret_value(key: *const u8, size: usize, ident: i32) -> i32;
    }
}

/// Of the run that goes on; the host calls no function of a guest while another one runs.
static IDENT: AtomicI32 = AtomicI32::new(0);

pub type Answer = Result<Vec<u8>, (i32, String)>;

/// # Safety
/// `data` and `size` are what the host wrote into memory taken with `allocate`.
pub unsafe fn enter(run: fn(&[u8]) -> Answer, data: *const u8, size: usize, ident: i32) {
    IDENT.store(ident, Relaxed);
    match run(std::slice::from_raw_parts(data, size)) {
        Ok(result) => host::return_result(result.as_ptr(), result.len(), ident),
        Err((code, message)) => host::return_error(code, message.as_ptr(), message.len(), ident),
    }
}

/// The type of a query, as the Directive has it.
#[derive(Clone, Copy)]
pub enum Query {
    Insert = 0,
    Select = 1,
    Update = 2,
    Delete = 3,
}

/// The cached value of a key; a key that is not there is the error `key not found`.
pub fn cache_get(key: &str) -> Result<Vec<u8>, String> {
    fetched(unsafe { host::cache_get(key.as_ptr(), key.len(), IDENT.load(Relaxed)) })
}

/// Keeps a value for so many seconds, 0: for ever. The host gives no reason when it refuses.
pub fn cache_set(key: &str, value: &[u8], ttl_s: i32) -> Result<(), String> {
    let ident = IDENT.load(Relaxed);
    match unsafe { host::cache_set(key.as_ptr(), key.len(), value.as_ptr(), value.len(), ttl_s, ident) } {
        0 => Ok(()),
        _ => Err("the host failed".to_string()),
    }
}

/// A secret that the Directive gives to functions.
pub fn get_secret(key: &str) -> Result<Vec<u8>, String> {
    fetched(unsafe { host::get_secret_value(key.as_ptr(), key.len(), IDENT.load(Relaxed)) })
}

/// Runs a query of the Directive; the order of its variables counts, their names are for people. As JSON: an array with
/// an object for each row, or {"lastInsertID":n,"rowsAffected":n}.
pub fn db_exec(kind: Query, name: &str, variables: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let ident = IDENT.load(Relaxed);
    for (name, value) in variables {
        unsafe { host::add_ffi_var(name.as_ptr(), name.len(), value.as_ptr(), value.len(), ident) };
    }
    fetched(unsafe { host::db_exec(kind as i32, name.as_ptr(), name.len(), ident) })
}

/// The answer that a host function's number announces: its size, or minus the size of an error text.
fn fetched(size: i32) -> Result<Vec<u8>, String> {
    if size == -1 {
        return Err("the host failed".to_string());
    }
    let mut answer = vec![0; size.unsigned_abs() as usize];
    if size != 0 {
        unsafe { host::get_ffi_result(answer.as_mut_ptr(), IDENT.load(Relaxed)) };
    }
    if size < 0 {
        return Err(String::from_utf8_lossy(&answer).into_owned());
    }
    Ok(answer)
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
