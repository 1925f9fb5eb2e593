//! Metadata values: the thirteen GGUF value types, borrowed from the file.
//!
//! Scalars are decoded when the file is parsed; strings and arrays stay slices of the file. Every byte of an array
//! is checked at parse time (UTF-8 of strings, 0/1 of bools, nesting), so that its iterators cannot fail later.
//! Source of the format: `docs/gguf.md` of ggml.

use std::borrow::Cow;

use crate::cursor::{Cursor, What, Width};
use crate::error::GgufError;
use crate::limits;

/// The type of a metadata value or of the elements of a metadata array; the discriminant is the id in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are the format's")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with this id.
    pub fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one value; for strings and arrays the least that one can take.
    fn min_bytes(self, width: Width) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String => width.bytes(),
            Self::Array => 4 + width.bytes(),
        }
    }

    pub(crate) fn read(c: &mut Cursor<'_>, what: What<'_>) -> Result<Self, GgufError> {
        let offset = c.offset();
        let id = c.u32(what)?;
        Self::from_id(id).ok_or_else(|| GgufError::BadValueType { offset, what: what.to_string(), id })
    }
}

/// A metadata value. Strings and arrays borrow from the file.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the names are the format's")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The type of the value.
    pub fn ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The type as messages show it: `u32`, `array of string`.
    pub fn type_name(&self) -> String {
        match self {
            Self::Array(a) => format!("array of {}", a.elem.name()),
            other => other.ty().name().to_owned(),
        }
    }

    /// The value of any integer type, wide enough for all of them.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(x) => x.into(),
            Self::I8(x) => x.into(),
            Self::U16(x) => x.into(),
            Self::I16(x) => x.into(),
            Self::U32(x) => x.into(),
            Self::I32(x) => x.into(),
            Self::U64(x) => x.into(),
            Self::I64(x) => x.into(),
            _ => return None,
        })
    }

    /// The value of either float type; an f64 is rounded to f32.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(x) => Some(x),
            Self::F64(x) => Some(x as f32),
            _ => None,
        }
    }

    /// The value of any integer or float type; integers beyond 2^53 are rounded.
    pub(crate) fn as_number(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            ref other => other.as_integer().map(|n| n as f64),
        }
    }

    pub(crate) fn read(c: &mut Cursor<'a>, what: What<'_>) -> Result<Self, GgufError> {
        match ValueType::read(c, format_args!("the type of {what}"))? {
            ValueType::String => Ok(Self::String(c.string(limits::MAX_STRING_BYTES, what)?)),
            ValueType::Array => Ok(Self::Array(Array::read(c, 1, what)?)),
            ty => Self::read_scalar(ty, c, what),
        }
    }

    /// A number or bool. Strings and arrays, which are neither, give an error too.
    fn read_scalar(ty: ValueType, c: &mut Cursor<'a>, what: What<'_>) -> Result<Self, GgufError> {
        Ok(match ty {
            ValueType::U8 => Self::U8(c.u8(what)?),
            ValueType::I8 => Self::I8(i8::from_le_bytes(c.array(what)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(c.array(what)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(c.array(what)?)),
            ValueType::U32 => Self::U32(c.u32(what)?),
            ValueType::I32 => Self::I32(i32::from_le_bytes(c.array(what)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(c.array(what)?)),
            ValueType::Bool => {
                let offset = c.offset();
                match c.u8(what)? {
                    0 => Self::Bool(false),
                    1 => Self::Bool(true),
                    byte => return Err(GgufError::BadBool { offset, what: what.to_string(), byte }),
                }
            }
            ValueType::U64 => Self::U64(c.u64(what)?),
            ValueType::I64 => Self::I64(i64::from_le_bytes(c.array(what)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(c.array(what)?)),
            ValueType::String | ValueType::Array => {
                let (offset, what) = (c.offset(), what.to_string());
                return Err(GgufError::BadValueType { offset, what, id: ty as u32 });
            }
        })
    }
}

/// A checked metadata array, still in its file form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array<'a> {
    elem: ValueType,
    len: usize,
    raw: &'a [u8],
    width: Width,
}

impl<'a> Array<'a> {
    /// Type of the elements.
    pub fn elem(&self) -> ValueType {
        self.elem
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as they stand in the file (without the array's type and count).
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The elements as a file since version 2 holds them: those of version 1 have shorter lengths.
    pub fn wide(&self) -> Cow<'a, [u8]> {
        let nested = matches!(self.elem, ValueType::String | ValueType::Array);
        if self.width == Width::Wide || !nested {
            return Cow::Borrowed(self.raw);
        }
        let mut out = Vec::with_capacity(self.raw.len() * 2);
        let mut c = Cursor::with_width(self.raw, self.width);
        // All of this was checked when the array was read, so the loops run to the end.
        for _ in 0..self.len {
            if self.elem == ValueType::String {
                let Ok(text) = c.string_bytes(limits::MAX_STRING_BYTES, format_args!("a string")) else {
                    break;
                };
                out.extend((text.len() as u64).to_le_bytes());
                out.extend(text);
            } else {
                let Ok(inner) = Self::read(&mut c, limits::MAX_ARRAY_DEPTH, format_args!("an array")) else {
                    break;
                };
                out.extend((inner.elem as u32).to_le_bytes());
                out.extend((inner.len as u64).to_le_bytes());
                out.extend(inner.wide().iter());
            }
        }
        Cow::Owned(out)
    }

    /// The strings of an array of strings.
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.elem == ValueType::String)
            .then(|| Strings { cursor: Cursor::with_width(self.raw, self.width), left: self.len })
    }

    /// The numbers of an array of i32.
    pub fn i32s(&self) -> Option<impl ExactSizeIterator<Item = i32> + 'a> {
        (self.elem == ValueType::I32)
            .then(|| self.raw.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)))
    }

    /// The elements, in order.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (elem, len) = (self.elem, self.len);
        let mut c = Cursor::with_width(self.raw, self.width);
        // All of this was checked when the array was read, so every element is one.
        let next = move |_| match elem {
            ValueType::String => {
                c.string(limits::MAX_STRING_BYTES, format_args!("an element")).ok().map(Value::String)
            }
            ValueType::Array => {
                Self::read(&mut c, limits::MAX_ARRAY_DEPTH, format_args!("an element")).ok().map(Value::Array)
            }
            elem => Value::read_scalar(elem, &mut c, format_args!("an element")).ok(),
        };
        (0..len).map_while(next)
    }

    /// The elements of an array of numbers or bools.
    fn scalars(&self) -> Option<impl Iterator<Item = Value<'a>> + use<'a>> {
        let scalar = !matches!(self.elem, ValueType::String | ValueType::Array);
        scalar.then(|| self.values())
    }

    /// The numbers of an array of any integer type.
    pub fn integers(&self) -> Option<impl Iterator<Item = i128> + use<'a>> {
        let integers = !matches!(self.elem, ValueType::F32 | ValueType::F64 | ValueType::Bool);
        let scalars = self.scalars().filter(|_| integers)?;
        Some(scalars.map_while(|value| value.as_integer()))
    }

    /// The numbers of an array of any numeric type; bools are 0 and 1.
    pub(crate) fn numbers(&self) -> Option<impl Iterator<Item = f64> + use<'a>> {
        Some(self.scalars()?.map_while(|value| match value {
            Value::Bool(b) => Some(f64::from(u8::from(b))),
            other => other.as_number(),
        }))
    }

    /// Reads type, count and elements; `depth` is the array level that is being read, from 1.
    ///
    /// Recursion ends at [`limits::MAX_ARRAY_DEPTH`]; the work is bounded by the bytes, because every element takes
    /// at least one.
    fn read(c: &mut Cursor<'a>, depth: u32, what: What<'_>) -> Result<Self, GgufError> {
        let type_offset = c.offset();
        let elem = ValueType::read(c, format_args!("the element type of {what}"))?;
        if elem == ValueType::Array && depth >= limits::MAX_ARRAY_DEPTH {
            return Err(GgufError::NestingTooDeep {
                offset: type_offset,
                what: what.to_string(),
                limit: limits::MAX_ARRAY_DEPTH,
            });
        }
        let len = c.count(
            limits::MAX_ARRAY_LEN,
            elem.min_bytes(c.width()),
            format_args!("the number of elements of {what}"),
        )?;
        let start = c.offset();
        match elem {
            ValueType::String => {
                for i in 0..len {
                    c.string(limits::MAX_STRING_BYTES, format_args!("element {i} of {what}"))?;
                }
            }
            ValueType::Array => {
                for i in 0..len {
                    Self::read(c, depth + 1, format_args!("element {i} of {what}"))?;
                }
            }
            _ => {
                // `count` has compared the product with the bytes left, so it cannot overflow.
                let bytes = c.take(len as u64 * elem.min_bytes(c.width()), what)?;
                if elem == ValueType::Bool
                    && let Some(i) = bytes.iter().position(|&b| b > 1)
                {
                    return Err(GgufError::BadBool {
                        offset: start + i as u64,
                        what: format!("element {i} of {what}"),
                        byte: bytes[i],
                    });
                }
            }
        }
        Ok(Self { elem, len, raw: c.since(start), width: c.width() })
    }
}

/// Iterator over the strings of an [`Array`].
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.string(limits::MAX_STRING_BYTES, format_args!("a string")).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}
