//! `define_kernels!`: what a row of the kernel table becomes.
//!
//! A row has these columns, all of which the macro demands except `then`:
//!
//! | column | says |
//! |---|---|
//! | shape | a doc comment, the name and the fields of the variant of `KernelKind` |
//! | `args` | the arguments in order: a name, a source (a method of [`Signature`](super::args::Signature) and of [`Parameters`](super::args::Parameters)), and a condition for those that not every kernel of the kind has; scratch and workspace come with their bytes |
//! | `name` | the kernel's name, unique for each shape |
//! | `check` | what has to hold so that the kernel can be built, as results |
//! | `then` | the kernel that finishes the op when all threads have run this one: its name in profiles, its shape, its units |
//! | `generator` | the function that makes the kernel |
//!
//! Columns are expressions over the fields of the shape and over the spec, under the name that stands between bars at the top
//! of the table.
//!
//! A row yields a variant of `KernelKind` and a struct of the same name in the module `kernel`: the fields of the shape, the
//! arguments under their names and types ([`TokenRows`](super::args::TokenRows), `Position`, `I64`; in an `Option` if they have a
//! condition), and the [`Call`](super::args::Call). The generator gets nothing else, so it cannot ask for an argument
//! that its kernel has not, and cannot take the stride of one for another's.

/// The type that an argument has in its kernel's struct.
macro_rules! argument_type {
    (operand_rows) => { TokenRows };
    (result_rows) => { TokenRows };
    (position) => { Position };
    ($source:ident) => { I64 };
    ($source:ident if $condition:expr) => { Option<argument_type!($source)> };
}

/// Lists an argument, if its condition holds.
macro_rules! list_argument {
    ($signature:ident.$source:ident($($given:expr)?)) => { $signature.$source($($given)?) };
    ($signature:ident.$source:ident($($given:expr)?) if $condition:expr) => {
        if $condition {
            $signature.$source($($given)?);
        }
    };
}

/// Declares an argument, if its condition holds.
macro_rules! declare_argument {
    ($parameters:ident.$source:ident($($given:expr)?)) => { $parameters.$source($($given)?) };
    ($parameters:ident.$source:ident($($given:expr)?) if $condition:expr) => {
        if $condition { Some($parameters.$source($($given)?)) } else { None }
    };
}

/// A column that may be left out.
macro_rules! optional_column {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

macro_rules! define_kernels {
    (
        |$spec:ident|
        $(
            $(#[$doc:meta])*
            $kind:ident { $( $(#[$field_doc:meta])* $field:ident: $field_type:ty ),* $(,)? }
            args { $( $arg:ident: $source:ident $(($given:expr))? $(if $condition:expr)? ),* $(,)? }
            name $name:expr;
            check { $( $rule:expr ),* $(,)? }
            $( then $then:expr; )?
            generator $generator:path;
        )*
    ) => {
        /// What is computed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum KernelKind {
            $( $(#[$doc])* $kind { $( $(#[$field_doc])* $field: $field_type ),* } ),*
        }

        /// What generators get: a kernel's shape, its arguments by name, and its call.
        pub(super) mod kernel {
            use super::*;

            $(
                $(#[$doc])*
                pub(in crate::kernels) struct $kind {
                    pub(in crate::kernels) call: Call,
                    $( $(#[$field_doc])* pub(in crate::kernels) $field: $field_type, )*
                    $( pub(in crate::kernels) $arg: argument_type!($source $(if $condition)?), )*
                }
            )*
        }

        /// The columns. Not every one reads every field.
        #[allow(unused_variables)]
        impl KernelSpec {
            /// What the caller passes and provides.
            pub(super) fn signature(&self) -> Signature {
                let $spec = self;
                let mut signature = Signature::default();
                match self.kind {
                    $(
                        KernelKind::$kind { $($field),* } => {
                            $( list_argument!(signature.$source($($given)?) $(if $condition)?); )*
                        }
                    )*
                }
                signature.call();
                signature
            }

            /// The kernel's name without what [`TokenMode::Many`] adds.
            pub(super) fn shape_name(&self) -> String {
                match self.kind {
                    $( KernelKind::$kind { $($field),* } => $name, )*
                }
            }

            /// Checks the shape.
            pub(super) fn check_shape(&self) -> Result<(), KernelError> {
                let $spec = self;
                match self.kind {
                    $( KernelKind::$kind { $($field),* } => { $( $rule?; )* } )*
                }
                Ok(())
            }

            /// What has to run after a barrier: its name in profiles, its shape, its units.
            pub(super) fn second_step(&self) -> Option<(&'static str, KernelKind, Units)> {
                match self.kind {
                    $( KernelKind::$kind { $($field),* } => optional_column!($($then)?), )*
                }
            }

            /// Declares the parameters and makes the kernel.
            pub(super) fn generate(&self, b: &mut KernelBuilder, registers: Registers) {
                let $spec = self;
                let mut parameters = Parameters::new(b, self, registers);
                match self.kind {
                    $(
                        KernelKind::$kind { $($field),* } => {
                            $(
                                let $arg =
                                    declare_argument!(parameters.$source($($given)?) $(if $condition)?);
                            )*
                            let call = parameters.call();
                            $generator(b, &kernel::$kind { call, $($field,)* $($arg,)* });
                        }
                    )*
                }
            }
        }
    };
}
