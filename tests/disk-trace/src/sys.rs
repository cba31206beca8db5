//! System calls by number: libc's functions of these names are ours here. Each returns what the kernel says, and sets
//! `errno`, as libc's would.
#![allow(unsafe_code, reason = "system calls")]

use std::ffi::CStr;

use libc::{c_int, c_long, c_void, off_t, ssize_t};

/// SAFETY: as for the call of that number. The kernel checks pointers and descriptors that come from our caller.
macro_rules! call {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: see above.
        unsafe { libc::syscall(libc::$number $(, $argument)*) }
    };
}

fn int(result: c_long) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

fn size(result: c_long) -> ssize_t {
    ssize_t::try_from(result).unwrap_or(-1)
}

pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: the calling thread's own errno.
    unsafe { *libc::__errno_location() = errno }
}

pub(crate) fn openat(folder: c_int, path: &CStr, flags: c_int, mode: libc::mode_t) -> c_int {
    int(call!(SYS_openat, folder, path.as_ptr(), flags, mode))
}

pub(crate) fn exists(folder: c_int, path: &CStr) -> bool {
    call!(SYS_faccessat, folder, path.as_ptr(), libc::F_OK) == 0
}

pub(crate) fn close(fd: c_int) -> c_int {
    int(call!(SYS_close, fd))
}

pub(crate) fn read(fd: c_int, into: &mut [u8]) -> usize {
    usize::try_from(call!(SYS_read, fd, into.as_mut_ptr(), into.len())).unwrap_or(0)
}

pub(crate) fn write(fd: c_int, data: *const c_void, count: usize) -> ssize_t {
    size(call!(SYS_write, fd, data, count))
}

pub(crate) fn pwrite(fd: c_int, data: *const c_void, count: usize, at: off_t) -> ssize_t {
    size(call!(SYS_pwrite64, fd, data, count, at))
}

pub(crate) fn writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> ssize_t {
    size(call!(SYS_writev, fd, parts, count))
}

/// Where `write` goes: the position, or the end of a file that is appended to.
pub(crate) fn position(fd: c_int, size: u64) -> u64 {
    if call!(SYS_fcntl, fd, libc::F_GETFL) & c_long::from(libc::O_APPEND) != 0 {
        return size;
    }
    u64::try_from(call!(SYS_lseek, fd, 0_i64, libc::SEEK_CUR)).unwrap_or(0)
}

pub(crate) fn ftruncate(fd: c_int, length: off_t) -> c_int {
    int(call!(SYS_ftruncate, fd, length))
}

pub(crate) fn fallocate(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    int(call!(SYS_fallocate, fd, mode, at, length))
}

pub(crate) fn fsync(fd: c_int) -> c_int {
    int(call!(SYS_fsync, fd))
}

pub(crate) fn fdatasync(fd: c_int) -> c_int {
    int(call!(SYS_fdatasync, fd))
}

pub(crate) fn sync_file_range(fd: c_int, at: off_t, length: off_t, flags: libc::c_uint) -> c_int {
    int(call!(SYS_sync_file_range, fd, at, length, flags))
}

pub(crate) fn rename(from: &CStr, to: &CStr) -> c_int {
    int(call!(SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0))
}

pub(crate) fn unlink(path: &CStr, flags: c_int) -> c_int {
    int(call!(SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), flags))
}

pub(crate) fn mkdir(path: &CStr, mode: libc::mode_t) -> c_int {
    int(call!(SYS_mkdirat, libc::AT_FDCWD, path.as_ptr(), mode))
}

/// What `fstat` says of an open file: inode, length, and whether it is a regular file or a folder.
pub(crate) struct Stat {
    pub(crate) inode: u64,
    pub(crate) length: u64,
    pub(crate) is_file: bool,
    pub(crate) is_folder: bool,
}

pub(crate) fn stat(fd: c_int) -> Option<Stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the whole structure where it says 0; on 64-bit Linux libc's is the kernel's.
    let stat = unsafe {
        if libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    let kind = stat.st_mode & libc::S_IFMT;
    Some(Stat {
        inode: stat.st_ino,
        length: u64::try_from(stat.st_size).unwrap_or(0),
        is_file: kind == libc::S_IFREG,
        is_folder: kind == libc::S_IFDIR,
    })
}
