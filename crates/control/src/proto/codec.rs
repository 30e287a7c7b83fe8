//! Little-endian fields in and out of one message buffer. Both ends are bounded: nothing here indexes past a slice.

use super::{MessageBuffer, ProtoError};

/// Appends fields; remembers an overflow until [`Writer::finish`].
pub(crate) struct Writer<'a> {
    out: &'a mut MessageBuffer,
    len: usize,
    overflow: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut MessageBuffer) -> Self {
        Self { out, len: 0, overflow: false }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.len + bytes.len();
        match self.out.get_mut(self.len..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len = end;
            }
            None => self.overflow = true,
        }
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        match u16::try_from(text.len()) {
            Ok(len) if usize::from(len) <= super::TEXT_BYTES_MAX => self.u16(len).bytes(text.as_bytes()),
            _ => {
                self.overflow = true;
                self
            }
        }
    }

    pub(crate) fn finish(self) -> Result<usize, ProtoError> {
        if self.overflow { Err(ProtoError::TooLong) } else { Ok(self.len) }
    }
}

/// Takes fields off the front of a message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ProtoError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(ProtoError::TooShort)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ProtoError::TooShort)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ProtoError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ProtoError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ProtoError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ProtoError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self) -> Result<bool, ProtoError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ProtoError::BadValue),
        }
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, ProtoError> {
        let len = usize::from(self.u16()?);
        if len > super::TEXT_BYTES_MAX {
            return Err(ProtoError::TooLong);
        }
        core::str::from_utf8(self.take(len)?).map_err(|_| ProtoError::BadValue)
    }

    /// `message`, if every byte was read.
    pub(crate) fn finish<T>(self, message: T) -> Result<T, ProtoError> {
        if self.rest.is_empty() { Ok(message) } else { Err(ProtoError::Surplus) }
    }
}
