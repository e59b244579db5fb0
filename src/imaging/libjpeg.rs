//! libjpeg, made strict: damaged image data is an error, where it would warn and go on with grey.
//!
//! # Why
//! A row that the file doesn't hold is never made up. What a camera gets wrong outside the picture (stray bytes before a marker, an unknown
//! JFIF revision) is let through, as every reader does. The binding is to the C functions themselves because the planes behind the inverse DCT are
//! wanted a row of blocks at a time, which no safe crate gives.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CStr, c_int, c_long};
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

use crate::imaging::decode::Fault;
use mozjpeg_sys::{
    J_COLOR_SPACE, JWRN_EXTRANEOUS_DATA, JWRN_HIT_MARKER, JWRN_JFIF_MAJOR, jpeg_common_struct, jpeg_create_decompress,
    jpeg_decompress_struct, jpeg_destroy_decompress, jpeg_error_mgr, jpeg_finish_decompress, jpeg_read_header, jpeg_read_raw_data,
    jpeg_read_scanlines, jpeg_resync_to_restart, jpeg_source_mgr, jpeg_start_decompress, jpeg_std_error,
};

/// What libjpeg reads at once.
const BUFFER: usize = 1 << 16;
/// Samples along a side of a block.
pub const BLOCK: usize = 8;

/// What the pixels are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The planes behind the inverse DCT, by [`Jpeg::read_planes`].
    Planes,
    /// RGB by [`Jpeg::read_row`], reduced to `eighths` of the size.
    Rgb { eighths: u8 },
    /// CMYK as stored, by [`Jpeg::read_row`].
    Cmyk,
}

/// How the frame header has its components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    Grey,
    YCbCr,
    Rgb,
    /// CMYK or YCCK.
    Cmyk,
    Other,
}

/// A JPEG being decoded. Every call that fails leaves it good for nothing but to be dropped.
pub struct Jpeg {
    info: Box<jpeg_decompress_struct>,
    // Both are pointed at from `info`, so they are boxed and live as long.
    _errors: Box<jpeg_error_mgr>,
    source: Box<Source>,
}

// SAFETY: libjpeg keeps no state outside these boxes and ties none to a thread; the pointers in them are to each other.
unsafe impl Send for Jpeg {}

/// libjpeg's view of a file; `interface` comes first, so that a pointer to it is one to the whole.
#[repr(C)]
struct Source {
    interface: jpeg_source_mgr,
    file: File,
    buffer: Vec<u8>,
}

impl Jpeg {
    /// Reads up to the first scan.
    pub fn open(file: File) -> Result<Self, Fault> {
        let interface = jpeg_source_mgr {
            next_input_byte: ptr::null(),
            bytes_in_buffer: 0,
            init_source: Some(nothing),
            fill_input_buffer: Some(fill),
            skip_input_data: Some(skip),
            resync_to_restart: Some(jpeg_resync_to_restart),
            term_source: Some(nothing),
        };
        let mut source = Box::new(Source { interface, file, buffer: vec![0; BUFFER] });
        let mut errors = Box::new(strict());
        // SAFETY: integers, pointers and optional functions may all be zero, and `jpeg_create_decompress` sets them.
        let mut info: Box<jpeg_decompress_struct> = Box::new(unsafe { std::mem::zeroed() });
        info.common.err = &mut *errors;
        let from: *mut Source = &mut *source;
        let created = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the struct is zeroed and has an error manager; both stay where they are.
            unsafe { jpeg_create_decompress(&mut *info) };
            info.src = from.cast();
        }));
        created.map_err(fault)?;
        let mut jpeg = Self { info, _errors: errors, source };
        // SAFETY: created above, with a source; 1: a picture is required.
        jpeg.call(|info| unsafe { jpeg_read_header(info, 1) })?;
        Ok(jpeg)
    }

    /// Runs one function of libjpeg, which leaves by unwinding.
    fn call<T>(&mut self, function: impl FnOnce(&mut jpeg_decompress_struct) -> T) -> Result<T, Fault> {
        let info = &mut *self.info;
        catch_unwind(AssertUnwindSafe(|| function(info))).map_err(fault)
    }

    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.info.image_width as usize, self.info.image_height as usize)
    }

    /// Size of the rows that come out, known after [`Self::start`].
    #[must_use]
    pub fn output_size(&self) -> (usize, usize) {
        (self.info.output_width as usize, self.info.output_height as usize)
    }

    #[must_use]
    pub fn colours(&self) -> Colours {
        match self.info.jpeg_color_space {
            J_COLOR_SPACE::JCS_GRAYSCALE => Colours::Grey,
            J_COLOR_SPACE::JCS_YCbCr => Colours::YCbCr,
            J_COLOR_SPACE::JCS_RGB => Colours::Rgb,
            J_COLOR_SPACE::JCS_CMYK | J_COLOR_SPACE::JCS_YCCK => Colours::Cmyk,
            _ => Colours::Other,
        }
    }

    /// Horizontal and vertical sampling factors of each component.
    pub fn sampling(&self) -> impl ExactSizeIterator<Item = (usize, usize)> {
        let count = usize::try_from(self.info.num_components).unwrap_or(0);
        // SAFETY: libjpeg's array of `num_components` entries, there once the header was read.
        let components = unsafe { std::slice::from_raw_parts(self.info.comp_info, count) };
        let factor = |value: c_int| usize::try_from(value).unwrap_or(1);
        components.iter().map(move |component| (factor(component.h_samp_factor), factor(component.v_samp_factor)))
    }

    pub fn start(&mut self, output: Output) -> Result<(), Fault> {
        match output {
            Output::Planes => self.info.raw_data_out = 1,
            Output::Rgb { eighths } => {
                self.info.out_color_space = J_COLOR_SPACE::JCS_RGB;
                (self.info.scale_num, self.info.scale_denom) = (eighths.into(), 8);
            }
            Output::Cmyk => self.info.out_color_space = J_COLOR_SPACE::JCS_CMYK,
        }
        // SAFETY: the header was read. A source that never suspends: the result is true.
        self.call(|info| unsafe { jpeg_start_decompress(info) }).map(|_| ())
    }

    /// One row of blocks of every component: `planes[c]` holds as many rows as its sampling factor has blocks, `strides[c]` apart.
    pub fn read_planes(&mut self, planes: &mut [&mut [u8]], strides: &[usize]) -> Result<(), Fault> {
        const MOST_ROWS: usize = 4 * BLOCK;
        let mut rows = [[ptr::null_mut::<u8>(); MOST_ROWS]; 4];
        let mut pointers = [ptr::null_mut(); 4];
        let fits = planes.len() == self.sampling().len() && strides.len() == planes.len();
        assert!(fits, "{} planes of {} components", planes.len(), self.sampling().len());
        let (most_h, most_v) = self.sampling().fold((1, 1), |(h, v), own| (h.max(own.0), v.max(own.1)));
        let across = self.size().0.div_ceil(most_h * BLOCK);
        for (at, (h, v)) in self.sampling().enumerate() {
            let (plane, stride) = (&mut *planes[at], strides[at]);
            // libjpeg writes whole blocks, so a row has to have room for them.
            assert!(stride >= across * h * BLOCK && plane.len() >= v * BLOCK * stride, "plane {at}: {} bytes, {stride} a row", plane.len());
            for (row, plane) in rows[at].iter_mut().zip(plane.chunks_exact_mut(stride)).take(v * BLOCK) {
                *row = plane.as_mut_ptr();
            }
            pointers[at] = rows[at].as_mut_ptr();
        }
        let lines = u32::try_from(most_v * BLOCK).unwrap_or(0);
        // SAFETY: one array of row pointers a component, each row as long as its blocks, by the assertion above.
        let read = self.call(|info| unsafe { jpeg_read_raw_data(info, pointers.as_mut_ptr(), lines) })?;
        if read == lines { Ok(()) } else { Err(Fault::new(format!("wanted {lines} rows of samples, found {read}"))) }
    }

    /// The next row, as long as [`Self::output_size`] and the output's channels say.
    pub fn read_row(&mut self, out: &mut [u8]) -> Result<(), Fault> {
        let channels = usize::try_from(self.info.output_components).unwrap_or(0);
        assert_eq!(out.len(), self.output_size().0 * channels, "a row of the picture");
        let mut row = out.as_mut_ptr();
        // SAFETY: one row pointer to as many bytes as the row has, by the line above.
        let read = self.call(|info| unsafe { jpeg_read_scanlines(info, &mut row, 1) })?;
        if read == 1 { Ok(()) } else { Err(Fault::new("wanted a row, found none")) }
    }

    /// Reads what comes after the picture, to its end marker.
    pub fn finish(&mut self) -> Result<(), Fault> {
        // SAFETY: all rows were read, or libjpeg says so.
        self.call(|info| unsafe { jpeg_finish_decompress(info) }).map(|_| ())
    }
}

impl Drop for Jpeg {
    fn drop(&mut self) {
        // SAFETY: created in `open`; frees what libjpeg allocated. The source outlives the call.
        unsafe { jpeg_destroy_decompress(&mut self.info) };
        self.source.buffer.clear();
    }
}

/// libjpeg's error manager for a decoder inside `catch_unwind`: it leaves by unwinding with a [`Fault`], past the panic hook.
fn strict() -> jpeg_error_mgr {
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

fn fault(cause: Box<dyn Any + Send>) -> Fault {
    match cause.downcast::<Fault>() {
        Ok(fault) => *fault,
        Err(_) => Fault::new("the JPEG decoder gave up"),
    }
}

#[cold]
extern "C-unwind" fn leave(info: &mut jpeg_common_struct) {
    let ended = is(info, JWRN_HIT_MARKER);
    resume_unwind(Box::new(Fault { ended, reason: message(info) }));
}

fn is(info: &jpeg_common_struct, code: impl TryInto<c_int>) -> bool {
    // SAFETY: libjpeg calls with the manager that it was given, alive as long as the decoder.
    code.try_into().ok() == Some(unsafe { (*info.err).msg_code })
}

/// Level −1 is a warning of damaged data, 0 and above a trace.
extern "C-unwind" fn warn(info: &mut jpeg_common_struct, level: c_int) {
    let harmless = is(info, JWRN_EXTRANEOUS_DATA) || is(info, JWRN_JFIF_MAJOR);
    if level < 0 && !harmless {
        leave(info);
    }
}

/// The message's text as in libjpeg's table, its figures left out.
fn message(info: &jpeg_common_struct) -> String {
    // SAFETY: as in `is`; the table has texts for the codes 0 to `last_jpeg_message`, which `jpeg_std_error` put there, all static C strings.
    let text = unsafe {
        let manager = &*info.err;
        let known = (0..=manager.last_jpeg_message).contains(&manager.msg_code) && !manager.jpeg_message_table.is_null();
        let place = usize::try_from(manager.msg_code).unwrap_or(0);
        known.then(|| CStr::from_ptr((*manager.jpeg_message_table.add(place)).cast()).to_string_lossy().into_owned())
    };
    text.unwrap_or_else(|| "an error that libjpeg has no text for".into())
}

extern "C-unwind" fn nothing(_: &mut jpeg_decompress_struct) {}

/// The file's next bytes. Its end, reached while more is wanted, is an error: libjpeg would fill up with grey.
extern "C-unwind" fn fill(info: &mut jpeg_decompress_struct) -> mozjpeg_sys::boolean {
    // SAFETY: the pointer that `open` set, to a `Source` that outlives the decoder and is touched by nobody else during a call.
    let source = unsafe { &mut *info.src.cast::<Source>() };
    match source.file.read(&mut source.buffer) {
        Ok(0) => resume_unwind(Box::new(Fault { ended: true, reason: "more was wanted".into() })),
        Ok(len) => {
            source.interface.next_input_byte = source.buffer.as_ptr();
            source.interface.bytes_in_buffer = len;
            1
        }
        Err(error) => resume_unwind(Box::new(Fault::new(error.to_string()))),
    }
}

extern "C-unwind" fn skip(info: &mut jpeg_decompress_struct, count: c_long) {
    let mut left = usize::try_from(count).unwrap_or(0);
    loop {
        // SAFETY: as in `fill`; the reference ends before that is called.
        let interface = unsafe { &mut *info.src };
        if left <= interface.bytes_in_buffer {
            // SAFETY: inside the buffer, by the line above.
            interface.next_input_byte = unsafe { interface.next_input_byte.add(left) };
            interface.bytes_in_buffer -= left;
            return;
        }
        left -= interface.bytes_in_buffer;
        fill(info);
    }
}
