//! What compilers, shells and deploy tools do to a program.
