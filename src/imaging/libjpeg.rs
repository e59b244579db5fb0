//! libjpeg's error manager, made strict: damaged image data is an error, where libjpeg would warn and go on with grey.
//!
//! # Why
//! A row that the file doesn't hold is never made up. What a camera gets wrong outside the picture (stray bytes before a marker, an unknown
//! JFIF revision) is let through, as every reader does.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::panic::resume_unwind;

use mozjpeg_sys::{JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR, jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};

/// For a decoder inside `catch_unwind`: it leaves by unwinding with a `String`, past the panic hook.
pub fn strict() -> jpeg_error_mgr {
    // SAFETY: integers, pointers and optional functions may all be zero; `jpeg_std_error` fills them in and keeps no pointer to the struct.
    let mut manager = unsafe {
        let mut manager = std::mem::zeroed();
        jpeg_std_error(&mut manager);
        manager
    };
    manager.error_exit = Some(leave);
    manager.emit_message = Some(warn);
    manager
}

#[cold]
extern "C-unwind" fn leave(info: &mut jpeg_common_struct) {
    resume_unwind(Box::new(message(info)));
}

/// Level −1 is a warning of damaged data, 0 and above a trace.
extern "C-unwind" fn warn(info: &mut jpeg_common_struct, level: c_int) {
    // SAFETY: libjpeg calls with the manager that it was given, alive as long as the decoder.
    let code = unsafe { (*info.err).msg_code };
    let harmless = [JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR].iter().any(|known| c_int::try_from(*known) == Ok(code));
    if level < 0 && !harmless {
        leave(info);
    }
}

/// The message's text as in libjpeg's table, its figures left out.
fn message(info: &jpeg_common_struct) -> String {
    // SAFETY: as in `warn`; the table has texts for the codes 0 to `last_jpeg_message`, which `jpeg_std_error` put there, all static C strings.
    let text = unsafe {
        let manager = &*info.err;
        let known = (0..=manager.last_jpeg_message).contains(&manager.msg_code) && !manager.jpeg_message_table.is_null();
        let place = usize::try_from(manager.msg_code).unwrap_or(0);
        known.then(|| CStr::from_ptr((*manager.jpeg_message_table.add(place)).cast()).to_string_lossy().into_owned())
    };
    text.unwrap_or_else(|| "an error that libjpeg has no text for".into())
}
