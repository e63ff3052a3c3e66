//! What a user may choose by name.

/// For an enum without fields, its names once: `ALL`, `Display`, and `FromStr`, whose error lists them.
macro_rules! named {
    ($choice:ident, $what:literal: $($variant:ident = $name:literal),*) => {
        impl $choice {
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];
        }

        impl std::fmt::Display for $choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self {
                    $(Self::$variant => $name,)*
                })
            }
        }

        impl std::str::FromStr for $choice {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(format!("unknown {} {s:?}: one of {}", $what, [$($name),*].join(", "))),
                }
            }
        }
    };
}

pub(crate) use named;
