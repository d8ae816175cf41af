//! The form that every instruction has at run time: one loop over the elements of a tile.

/// One instruction over a tile: up to three operands, one result, and the number of elements.
///
/// # Safety
/// Each pointer that the instruction uses is valid and aligned for `len` elements of the type that
/// it was chosen for; operands are initialised; the result overlaps no operand.
pub(super) type Run = unsafe fn(operands: [*const u8; 3], result: *mut u8, len: usize);

/// The loop of a function of one argument.
///
/// # Safety
/// As for [`Run`], with operand 0 of type `A` and a result of type `R`.
#[inline(always)]
pub(super) unsafe fn one<A: Copy, R>(
    operands: [*const u8; 3],
    result: *mut u8,
    len: usize,
    f: impl Fn(A) -> R,
) {
    // SAFETY: by this function's contract.
    let (a, result) = unsafe { (operand::<A>(operands[0], len), output::<R>(result, len)) };
    for (result, &a) in result.iter_mut().zip(a) {
        *result = f(a);
    }
}

/// The loop of a function of two arguments.
///
/// # Safety
/// As for [`Run`], with operands 0 and 1 of type `A` and a result of type `R`.
#[inline(always)]
pub(super) unsafe fn two<A: Copy, R>(
    operands: [*const u8; 3],
    result: *mut u8,
    len: usize,
    f: impl Fn(A, A) -> R,
) {
    // SAFETY: by this function's contract.
    let (a, b, result) = unsafe {
        (
            operand::<A>(operands[0], len),
            operand::<A>(operands[1], len),
            output::<R>(result, len),
        )
    };
    for ((result, &a), &b) in result.iter_mut().zip(a).zip(b) {
        *result = f(a, b);
    }
}

/// The loop of `condition ? a : b` for elements of the size of `T`.
///
/// # Safety
/// As for [`Run`], with operand 0 of type `u8`, operands 1 and 2 and the result of type `T`.
#[inline(always)]
pub(super) unsafe fn select<T: Copy>(operands: [*const u8; 3], result: *mut u8, len: usize) {
    // SAFETY: by this function's contract.
    let (condition, a, b, result) = unsafe {
        (
            operand::<u8>(operands[0], len),
            operand::<T>(operands[1], len),
            operand::<T>(operands[2], len),
            output::<T>(result, len),
        )
    };
    for (((result, &condition), &a), &b) in result.iter_mut().zip(condition).zip(a).zip(b) {
        *result = if condition != 0 { a } else { b };
    }
}

/// An operand as a slice.
///
/// # Safety
/// `pointer` is valid and aligned for reading `len` elements of type `T`.
#[inline(always)]
pub(super) unsafe fn operand<'a, T>(pointer: *const u8, len: usize) -> &'a [T] {
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(pointer.cast(), len) }
}

/// A result as a slice.
///
/// # Safety
/// `pointer` is valid and aligned for writing `len` elements of type `T`, and is used by nobody
/// else.
#[inline(always)]
pub(super) unsafe fn output<'a, T>(pointer: *mut u8, len: usize) -> &'a mut [T] {
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts_mut(pointer.cast(), len) }
}

/// `run!(one, f32 => f32, |x| x + x)`: a [`Run`] of a function, for every processor.
macro_rules! run {
    (one, $A:ty => $R:ty, |$a:ident| $body:expr) => {{
        // SAFETY: the caller of a Run keeps the contract, which is this function's.
        let run: $crate::elementwise::run::Run = |operands, result, len| unsafe {
            $crate::elementwise::run::one::<$A, $R>(operands, result, len, |$a| $body)
        };
        run
    }};
    (two, $A:ty => $R:ty, |$a:ident, $b:ident| $body:expr) => {{
        // SAFETY: the caller of a Run keeps the contract, which is this function's.
        let run: $crate::elementwise::run::Run = |operands, result, len| unsafe {
            $crate::elementwise::run::two::<$A, $R>(operands, result, len, |$a, $b| $body)
        };
        run
    }};
}
pub(super) use run;
