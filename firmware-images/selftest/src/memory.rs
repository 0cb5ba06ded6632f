//! What the compiled `core` library expects from a C library: five memory functions, and names.

#[cfg(target_arch = "x86_64")]
use core::arch::asm;

/// # Safety
///
/// As in C.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller answers for both ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsq", "mov ecx, {rest:e}", "rep movsb",
            rest = in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// # Safety
///
/// As in C.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller answers for the range.
    unsafe {
        asm!(
            "rep stosq", "mov ecx, {rest:e}", "rep stosb",
            rest = in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rdi") to => _,
            in("rax") u64::from(value as u8) * 0x0101_0101_0101_0101,
            options(nostack, preserves_flags),
        );
    }
    to
}

// Volatile accesses keep the compiler from turning these loops into calls of themselves.

/// # Safety
///
/// As in C.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    let mut done = 0;
    // SAFETY: the caller answers for both ranges; words are copied only where both are aligned.
    unsafe {
        if (to as usize | from as usize) & 7 == 0 {
            while done + 8 <= count {
                let word = from.add(done).cast::<u64>().read_volatile();
                to.add(done).cast::<u64>().write_volatile(word);
                done += 8;
            }
        }
        while done < count {
            to.add(done).write_volatile(from.add(done).read_volatile());
            done += 1;
        }
    }
    to
}

/// # Safety
///
/// As in C.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    let mut done = 0;
    // SAFETY: the caller answers for the range.
    unsafe {
        if to as usize & 7 == 0 {
            let word = u64::from(value as u8) * 0x0101_0101_0101_0101;
            while done + 8 <= count {
                to.add(done).cast::<u64>().write_volatile(word);
                done += 8;
            }
        }
        while done < count {
            to.add(done).write_volatile(value as u8);
            done += 1;
        }
    }
    to
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: a copy that goes upwards reads each byte before it overwrites it.
        return unsafe { memcpy(to, from, count) };
    }
    let mut left = count;
    while left > 0 {
        left -= 1;
        // SAFETY: the caller answers for both ranges.
        unsafe { to.add(left).write_volatile(from.add(left).read_volatile()) };
    }
    to
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    let mut done = 0;
    while done < count {
        // SAFETY: the caller answers for both ranges.
        let (a, b) = unsafe { (left.add(done).read_volatile(), right.add(done).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        done += 1;
    }
    0
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: handed on.
    unsafe { memcmp(left, right, count) }
}

/// The compiled `core` names it, though nothing ever unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::fault::halt()
}
