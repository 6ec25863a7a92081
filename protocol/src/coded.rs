//! Enums that stand for one stable number on disk or wire.

/// Defines an enum whose variants are stable numbers, with `code`, `from_code` and `ALL`.
macro_rules! coded_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $repr:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $code:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name {
            $($(#[$variant_meta])* $variant = $code,)+
        }

        impl $name {
            /// Every variant, by rising code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number that stands for this on disk and wire; it never changes.
            #[must_use]
            pub const fn code(self) -> $repr {
                self as $repr
            }

            /// The variant a number stands for, if any.
            #[must_use]
            pub const fn from_code(code: $repr) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use coded_enum;
