//! The closed list of what can be wrong with a spec.

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident => $text:literal,)*) => {
        /// The kind of a diagnostic, printed in brackets after `error`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every kind there is (a test asks a case for each).
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The printed form.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// The text is not of the language.
    Syntax => "syntax",
    /// The text is too large, or nested too deep.
    TooLarge => "too-large",
    /// A number that does not fit.
    NumberRange => "number-range",
    /// A name that nothing declares.
    UnknownName => "unknown-name",
    /// Two declarations of one name.
    DuplicateName => "duplicate-name",
    /// A name that the language keeps for itself.
    ReservedName => "reserved-name",
    /// A declaration that has to be there and is not.
    Missing => "missing",
    /// A call's arguments do not fit.
    Arguments => "arguments",
    /// A value of the wrong kind (number for a list, operator for a number, …).
    WrongKind => "wrong-kind",
    /// A value out of its range.
    OutOfRange => "out-of-range",
    /// Two shapes that do not agree.
    ShapeMismatch => "shape-mismatch",
    /// A shape that an operator cannot take.
    BadShape => "bad-shape",
    /// A block that uses itself, or too much of it.
    Recursion => "recursion",
    /// Depths that do not nest.
    Depth => "depth",
    /// A pairing that cannot be made.
    Pairing => "pairing",
    /// A key that a settings block does not have.
    UnknownSetting => "unknown-setting",
    /// Settings that contradict each other.
    Conflict => "conflict",
    /// A declaration that nothing uses.
    Unused => "unused",
    /// A part of the language that is not supported yet.
    Unsupported => "unsupported",
    /// An arithmetic error (division by zero, overflow).
    Arithmetic => "arithmetic",
}
