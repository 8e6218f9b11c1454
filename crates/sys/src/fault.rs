// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults inside listed routines become return values; every other fault goes where it went before.
//!
//! # Containment contract
//! A kernel-raised SIGSEGV or SIGBUS whose instruction pointer lies in an installed [`FaultRange`] resumes at that
//! range's landing pad with the fault address in `r8`, to which [`POISONED`] is added where the memory itself reported
//! that it is broken. Whatever else arrives (a signal sent by a process, a fault in
//! other code, poison that was found in the background) is passed to the action that was installed before ours, std's
//! stack-overflow reporter included; the default action ends the process as it would have without us. A signal that a
//! process sends is answered by std's reporter with the default action for the next one, and containment ends with it;
//! after background poison ours is put back.

use std::ptr;
use std::sync::OnceLock;

use crate::Error;
use crate::error::check;

/// Instructions in `[start, end)` may fault; execution then goes on at `landing`. As the assembler writes it: each is how
/// far the place is from the field itself, so that the table is the same wherever it is loaded.
#[derive(Debug)]
#[repr(C)]
pub struct FaultRange {
    /// First instruction.
    start: i32,
    /// Past the last instruction.
    end: i32,
    /// Where to go on.
    landing: i32,
}

impl FaultRange {
    fn holds(&self, ip: usize) -> bool {
        (place(&self.start)..place(&self.end)).contains(&ip)
    }
}

/// What a field of a range means.
fn place(distance: &i32) -> usize {
    ptr::from_ref(distance).addr().wrapping_add_signed(*distance as isize)
}

const SIGNALS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Added to the address of a fault that broken memory reported (`BUS_MCEERR_AR`): no address of a process has this bit.
pub const POISONED: usize = 1 << 63;

/// An instruction met broken memory.
const BUS_MCEERR_AR: i32 = 4;

/// Poison found in the background (`BUS_MCEERR_AO`): no instruction of ours is waiting for it.
const BUS_MCEERR_AO: i32 = 5;

// Reading an initialised OnceLock is one atomic load: fit for a signal handler.
static PREVIOUS: [OnceLock<libc::sigaction>; 2] = [const { OnceLock::new() }; 2];
static RANGES: OnceLock<&'static [FaultRange]> = OnceLock::new();
static INSTALLED: OnceLock<Result<(), Error>> = OnceLock::new();

/// Installs the handler with this table, once per process; later calls change nothing.
///
/// # Safety
/// The table must be what the assembler wrote. Each landing pad must be part of the same code as its range and correct for every state in which an instruction
/// of the range can fault, given that `r8` then holds the fault address, marked or not.
pub unsafe fn install(table: &'static [FaultRange]) -> Result<(), Error> {
    *INSTALLED.get_or_init(|| {
        RANGES.get_or_init(|| table);
        PREVIOUS.iter().zip(SIGNALS).try_for_each(|(previous, signal)| hook(previous, signal))
    })
}

fn hook(previous: &OnceLock<libc::sigaction>, signal: i32) -> Result<(), Error> {
    // SAFETY: sigaction is plain data for which all zeroes is valid.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `old` is live; nothing is installed by a null action.
    check("sigaction", unsafe { libc::sigaction(signal, ptr::null(), &raw mut old) }.into())?;
    // Stored before ours is in place, so that our handler always finds it.
    previous.get_or_init(|| old);
    put_in_place(signal)
}

fn put_in_place(signal: i32) -> Result<(), Error> {
    // SAFETY: sigaction is plain data for which all zeroes is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK | libc::SA_SIGINFO;
    // SAFETY: `action` is live and its handler has the SA_SIGINFO shape.
    check("sigaction", unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }.into()).map(drop)
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a live siginfo to a SA_SIGINFO handler.
    let code = unsafe { (*info).si_code };
    let background = signal == libc::SIGBUS && code == BUS_MCEERR_AO;
    let poisoned = signal == libc::SIGBUS && code == BUS_MCEERR_AR;
    if code > 0 && !background && resume(info, context, poisoned) {
        return;
    }
    chain(signal, code, background, info, context);
    if background {
        let _ = put_in_place(signal);
    }
}

/// Moves the instruction pointer to the landing pad, if the fault lies in the table.
fn resume(info: *mut libc::siginfo_t, context: *mut libc::c_void, poisoned: bool) -> bool {
    // SAFETY: the kernel passes a live ucontext to a SA_SIGINFO handler, and nobody else has it.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    #[expect(clippy::cast_possible_truncation, reason = "an instruction pointer is an address")]
    let ip = registers[libc::REG_RIP as usize].cast_unsigned() as usize;
    let Some(range) = RANGES.get().copied().unwrap_or_default().iter().find(|range| range.holds(ip)) else {
        return false;
    };
    // SAFETY: the kernel passes a live siginfo.
    let info = unsafe { &*info };
    // SAFETY: a kernel-raised fault sets si_addr.
    let address = unsafe { info.si_addr() } as usize;
    let address = if poisoned { address | POISONED } else { address };
    registers[libc::REG_R8 as usize] = (address as u64).cast_signed();
    registers[libc::REG_RIP as usize] = (place(&range.landing) as u64).cast_signed();
    true
}

fn chain(signal: i32, code: i32, background: bool, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(previous) = PREVIOUS[usize::from(signal == libc::SIGBUS)].get() else { return };
    let sent = code <= 0 || background;
    match previous.sa_sigaction {
        libc::SIG_IGN if sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // A fault ignored by the process still ends it, so both mean: fault again with the default action.
            // SAFETY: sigaction is plain data for which all zeroes is the default action.
            let default: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: `default` is live.
            unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
            if sent {
                // Nothing will fault again, so send it again; it arrives when we return.
                // SAFETY: raise is async-signal-safe.
                unsafe { libc::raise(signal) };
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: an action with SA_SIGINFO holds a handler of this shape.
            let handler = unsafe {
                std::mem::transmute::<usize, extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)>(handler)
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: an action without SA_SIGINFO holds a handler of this shape.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(signal);
        }
    }
}
