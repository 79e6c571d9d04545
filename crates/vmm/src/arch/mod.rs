//! What is particular to x86-64 processors.

pub mod baseline;
pub mod cpuid;
pub mod registers;
