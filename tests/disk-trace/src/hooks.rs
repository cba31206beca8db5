//! libc's functions that change files, under libc's names.
//!
//! `open` and its like take their last argument only where they make a file; C passes it in the same register as a
//! declared one on every Linux that we build for, so it is declared here.
#![allow(unsafe_code, reason = "C's side")]

use std::ffi::CStr;

use libc::{c_char, c_int, c_uint, c_void, iovec, mode_t, off_t, size_t, ssize_t};

use crate::record::Kind;
use crate::sys;
use crate::tracer::{Need, Order, Tracer, tracer};

/// The path that C handed over.
unsafe fn path<'a>(path: *const c_char) -> &'a CStr {
    // SAFETY: the caller of a libc function hands over a string that ends with 0 and outlives the call.
    unsafe { CStr::from_ptr(path) }
}

/// The tracer and its lock, if it watches this path.
fn watching(path: &CStr) -> Option<(&'static Tracer, Order<'static>)> {
    let tracer = tracer().filter(|tracer| tracer.watches(path.to_bytes()))?;
    Some((tracer, tracer.order()))
}

/// The lock, the inode and the length, if `fd` is a watched file or folder.
fn watched(fd: c_int) -> Option<(Order<'static>, sys::Stat)> {
    let tracer = tracer()?;
    let stat = sys::stat(fd).filter(|stat| stat.is_file || stat.is_folder)?;
    let order = tracer.order();
    // Its length may have changed while we waited.
    order.knows(stat.inode).then(|| sys::stat(fd)).flatten().map(|stat| (order, stat))
}

fn fail(errno: c_int) -> c_int {
    sys::set_errno(errno);
    -1
}

/// A call that changes names: `Kind` with its paths once it succeeded.
fn named(kind: Kind, need: Option<Need>, a: &CStr, b: &CStr, call: impl FnOnce() -> c_int) -> c_int {
    let Some((_, mut order)) = watching(a).or_else(|| watching(b)) else { return call() };
    if let Some(fault) = need.and_then(|need| order.fault(need)) {
        return fail(fault.errno);
    }
    let result = call();
    if result == 0 {
        order.log(kind, 0, 0, a.to_bytes(), b.to_bytes());
    }
    result
}

fn open_any(folder: c_int, path: &CStr, flags: c_int, mode: mode_t) -> c_int {
    let Some((_, mut order)) = watching(path) else { return sys::openat(folder, path, flags, mode) };
    let makes = flags & libc::O_CREAT != 0 && !sys::exists(folder, path);
    if makes && let Some(fault) = order.fault(Need::Room) {
        return fail(fault.errno);
    }
    let fd = sys::openat(folder, path, flags, mode);
    if let Some(stat) = if fd < 0 { None } else { sys::stat(fd) } {
        order.opened(stat.inode, makes, path.to_bytes());
        if flags & libc::O_TRUNC != 0 && !makes {
            order.log(Kind::Truncate, stat.inode, 0, &[], &[]);
        }
    }
    fd
}

/// A write at `at`, or where the file stands. `call` writes so many bytes of it at most.
unsafe fn write_any(
    fd: c_int,
    data: *const c_void,
    count: size_t,
    at: Option<off_t>,
    call: impl Fn(size_t) -> ssize_t,
) -> ssize_t {
    let Some((mut order, stat)) = watched(fd) else { return call(count) };
    let at = at.map_or_else(|| sys::position(fd, stat.length), |at| u64::try_from(at).unwrap_or(0));
    let grows = at + count as u64 > stat.length;
    let mut count = count;
    if let Some(fault) = order.fault(if grows { Need::Room } else { Need::Write }) {
        if !fault.short || count < 2 {
            return fail(fault.errno) as ssize_t;
        }
        count /= 2;
    }
    let written = call(count);
    if let Ok(length @ 1..) = usize::try_from(written) {
        // SAFETY: the kernel has just read so many bytes from there.
        let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) };
        order.log(Kind::Write, stat.inode, at, data, &[]);
    }
    written
}

fn truncate_any(fd: c_int, length: off_t) -> c_int {
    let Some((mut order, stat)) = watched(fd) else { return sys::ftruncate(fd, length) };
    let length_u64 = u64::try_from(length).unwrap_or(0);
    let need = if length_u64 > stat.length { Need::Room } else { Need::Write };
    if let Some(fault) = order.fault(need) {
        return fail(fault.errno);
    }
    let result = sys::ftruncate(fd, length);
    if result == 0 {
        order.log(Kind::Truncate, stat.inode, length_u64, &[], &[]);
    }
    result
}

fn sync_any(fd: c_int, call: impl Fn(c_int) -> c_int) -> c_int {
    let Some((mut order, stat)) = watched(fd) else { return call(fd) };
    if let Some(fault) = order.fault(Need::Sync) {
        return fail(fault.errno);
    }
    let result = call(fd);
    if result == 0 {
        order.log(Kind::Sync, stat.inode, 0, &[], &[]);
    }
    result
}

fn allocate(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    let Some((mut order, stat)) = watched(fd) else { return sys::fallocate(fd, mode, at, length) };
    if let Some(fault) = order.fault(Need::Room) {
        return fail(fault.errno);
    }
    let result = sys::fallocate(fd, mode, at, length);
    let end = u64::try_from(at + length).unwrap_or(0);
    if result == 0 && mode == 0 && end > stat.length {
        order.log(Kind::Truncate, stat.inode, end, &[], &[]);
    }
    result
}

// What follows is C's list of names. SAFETY of all: each keeps the contract of the libc function of its name.

#[unsafe(no_mangle)]
unsafe extern "C" fn open(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_any(libc::AT_FDCWD, unsafe { path(name) }, flags, mode)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_any(libc::AT_FDCWD, unsafe { path(name) }, flags | libc::O_LARGEFILE, mode)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_any(folder, unsafe { path(name) }, flags, mode)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(folder: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open_any(folder, unsafe { path(name) }, flags | libc::O_LARGEFILE, mode)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn creat(name: *const c_char, mode: mode_t) -> c_int {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    open_any(libc::AT_FDCWD, unsafe { path(name) }, flags, mode)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn creat64(name: *const c_char, mode: mode_t) -> c_int {
    unsafe { creat(name, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, data: *const c_void, count: size_t) -> ssize_t {
    unsafe { write_any(fd, data, count, None, |count| sys::write(fd, data, count)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, data: *const c_void, count: size_t, at: off_t) -> ssize_t {
    unsafe { write_any(fd, data, count, Some(at), |count| sys::pwrite(fd, data, count, at)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, data: *const c_void, count: size_t, at: off_t) -> ssize_t {
    unsafe { pwrite(fd, data, count, at) }
}

/// For a watched file only the first part is written: callers go on after a short write.
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    if count < 1 || watched(fd).is_none() {
        return sys::writev(fd, parts, count);
    }
    // SAFETY: there is at least one part.
    let first = unsafe { *parts };
    unsafe { write(fd, first.iov_base, first.iov_len) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev(fd: c_int, parts: *const iovec, count: c_int, at: off_t) -> ssize_t {
    if count < 1 {
        return fail(libc::EINVAL) as ssize_t;
    }
    // SAFETY: there is at least one part; as in `writev`, callers go on after it.
    let first = unsafe { *parts };
    unsafe { pwrite(fd, first.iov_base, first.iov_len, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev64(fd: c_int, parts: *const iovec, count: c_int, at: off_t) -> ssize_t {
    unsafe { pwritev(fd, parts, count, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    truncate_any(fd, length)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    truncate_any(fd, length)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    allocate(fd, mode, at, length)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    allocate(fd, mode, at, length)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync_any(fd, sys::fsync)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync_any(fd, sys::fdatasync)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sync_file_range(fd: c_int, at: off_t, length: off_t, flags: c_uint) -> c_int {
    let Some((mut order, stat)) = watched(fd) else { return sys::sync_file_range(fd, at, length, flags) };
    if let Some(fault) = order.fault(Need::Sync) {
        return fail(fault.errno);
    }
    let result = sys::sync_file_range(fd, at, length, flags);
    if result == 0 {
        let at = u64::try_from(at).unwrap_or(0);
        order.log(Kind::SyncRange, stat.inode, at, &length.to_le_bytes(), &[]);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let (from, to) = unsafe { (path(from), path(to)) };
    named(Kind::Rename, Some(Need::Write), from, to, || sys::rename(from, to))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    let name = unsafe { path(name) };
    named(Kind::Unlink, None, name, c"", || sys::unlink(name, 0))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rmdir(name: *const c_char) -> c_int {
    let name = unsafe { path(name) };
    named(Kind::Rmdir, None, name, c"", || sys::unlink(name, libc::AT_REMOVEDIR))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(name: *const c_char, mode: mode_t) -> c_int {
    let name = unsafe { path(name) };
    named(Kind::Mkdir, Some(Need::Room), name, c"", || sys::mkdir(name, mode))
}
