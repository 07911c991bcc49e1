//! How the binary form of a value is made up, as far as it names types by number.
//!
//! An array's names the type of its elements by OID, a composite's those of its attributes. Types of
//! the server have the same numbers everywhere; types of an application are numbered by each database
//! for itself, so that equal values have different bytes on two servers. In columns with such values
//! these numbers are set to 0 before a tuple is digested or compared. Rows are carried as they were
//! sent: a server takes any number in place of that of an application's type (`array_recv` and
//! `record_recv`, from PostgreSQL 14 on).
//!
//! As text (`eventsource.catalog.forms` derives it from the catalog) a form is one of
//!
//! ```text
//! .         nothing to set to 0 within
//! [form     an array; the form is that of its elements
//! (form…)   a composite; one form for each of its attributes, none for those that were dropped
//! <form     a range; the form is that of its bounds
//! {form     a multirange; the same
//! ```
//!
//! and a domain has the form of the type that it is over.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::row::frame::{END, Field, Framer, HEADER};

/// The first OID that is not given by hand in PostgreSQL's sources.
const FIRST_VARYING: u32 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Array(Box<Form>),
    Composite(Vec<Form>),
    Range(Box<Form>),
    Multirange(Box<Form>),
}

/// The bytes of a value are not of its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Misfit;

/// The forms of those columns of a query that have something to set to 0; usually of none.
#[derive(Clone, Debug, Default)]
pub struct Forms(Arc<[FormOfColumn]>);

#[derive(Clone, Debug)]
struct FormOfColumn {
    index: usize,
    name: String,
    form: Form,
}

impl Forms {
    /// `texts` has one form for each of the columns, or is empty when all of them are plain.
    pub fn of(columns: &[String], texts: &[String]) -> Result<Forms> {
        if !texts.is_empty() && texts.len() != columns.len() {
            return Err(Error::protocol("there must be one form for each column"));
        }
        let mut forms = Vec::new();
        for (index, (name, text)) in columns.iter().zip(texts).enumerate() {
            let form = Form::parse(text)
                .ok_or_else(|| Error::protocol(format!("{text:?} of {name} is no form")))?;
            if form != Form::Plain {
                let name = name.clone();
                forms.push(FormOfColumn { index, name, form });
            }
        }
        Ok(Forms(forms.into()))
    }

    /// Whether all columns are plain.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the numbers of types in a tuple to 0; its columns come first in it, in their order.
    pub fn blank(&self, tuple: &mut [u8], fields: &[Field]) -> Result<()> {
        for FormOfColumn { index, name, form } in self.0.iter() {
            let Some(&Some((start, end))) = fields.get(*index) else {
                continue;
            };
            let value = tuple.get_mut(start..end).ok_or(Misfit);
            value.and_then(|value| form.blank(value)).map_err(|_| {
                Error::protocol(format!(
                    "a value of column {name} does not have the form of its type; if the type was \
                     changed meanwhile, begin again"
                ))
            })?;
        }
        Ok(())
    }

    /// A whole COPY with the numbers of types set to 0.
    pub fn blanked(&self, copy: &[u8]) -> Result<Vec<u8>> {
        let mut blanked = Vec::with_capacity(copy.len());
        blanked.extend_from_slice(HEADER);
        let mut framer = Framer::default();
        framer.push(Bytes::copy_from_slice(copy));
        let broken = |error| Error::protocol(format!("{error}"));
        while framer.advance().map_err(broken)? {
            let (tuple, fields) = framer.tuple_mut();
            self.blank(tuple, fields)?;
            blanked.extend_from_slice(tuple);
        }
        framer.finish().map_err(broken)?;
        blanked.extend_from_slice(END);
        Ok(blanked)
    }
}

impl Form {
    fn parse(text: &str) -> Option<Form> {
        let mut signs = text.as_bytes();
        let form = Form::next(&mut signs)?;
        signs.is_empty().then_some(form)
    }

    fn next(signs: &mut &[u8]) -> Option<Form> {
        let (sign, rest) = signs.split_first()?;
        *signs = rest;
        Some(match sign {
            b'.' => Form::Plain,
            b'[' => Form::Array(Form::next(signs)?.into()),
            b'<' => Form::Range(Form::next(signs)?.into()),
            b'{' => Form::Multirange(Form::next(signs)?.into()),
            b'(' => {
                let mut attributes = Vec::new();
                while *signs.first()? != b')' {
                    attributes.push(Form::next(signs)?);
                }
                *signs = &signs[1..];
                Form::Composite(attributes)
            }
            _ => return None,
        })
    }

    fn blank(&self, value: &mut [u8]) -> Result<(), Misfit> {
        let mut value = Unread(value);
        match self {
            Form::Plain => Ok(()),
            Form::Array(element) => {
                let dimensions = usize::try_from(value.number()?).map_err(|_| Misfit)?;
                value.take(4)?; // whether there are NULLs
                value.blank_type()?;
                value.take(dimensions.checked_mul(8).ok_or(Misfit)?)?;
                value.blank_rest(element)
            }
            Form::Composite(attributes) => {
                if usize::try_from(value.number()?) != Ok(attributes.len()) {
                    return Err(Misfit);
                }
                for attribute in attributes {
                    value.blank_type()?;
                    value.blank_value(attribute)?;
                }
                value.end()
            }
            Form::Range(bound) => {
                value.take(1)?; // which bounds there are
                value.blank_rest(bound)
            }
            Form::Multirange(bound) => {
                value.number()?;
                while !value.0.is_empty() {
                    let mut range = Unread(value.value()?.ok_or(Misfit)?);
                    range.take(1)?;
                    range.blank_rest(bound)?;
                }
                Ok(())
            }
        }
    }
}

/// The part of a value that is still to be read.
struct Unread<'a>(&'a mut [u8]);

impl<'a> Unread<'a> {
    fn take(&mut self, length: usize) -> Result<&'a mut [u8], Misfit> {
        let (taken, rest) = std::mem::take(&mut self.0)
            .split_at_mut_checked(length)
            .ok_or(Misfit)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<i32, Misfit> {
        let bytes = <[u8; 4]>::try_from(&*self.take(4)?).map_err(|_| Misfit)?;
        Ok(i32::from_be_bytes(bytes))
    }

    fn blank_type(&mut self) -> Result<(), Misfit> {
        let bytes = self.take(4)?;
        let oid = <[u8; 4]>::try_from(&*bytes).map_err(|_| Misfit)?;
        if u32::from_be_bytes(oid) >= FIRST_VARYING {
            bytes.fill(0);
        }
        Ok(())
    }

    /// `None` is NULL.
    fn value(&mut self) -> Result<Option<&'a mut [u8]>, Misfit> {
        match self.number()? {
            -1 => Ok(None),
            length => self
                .take(usize::try_from(length).map_err(|_| Misfit)?)
                .map(Some),
        }
    }

    fn blank_value(&mut self, form: &Form) -> Result<(), Misfit> {
        match self.value()? {
            Some(value) => form.blank(value),
            None => Ok(()),
        }
    }

    /// Values of one form up to the end.
    fn blank_rest(&mut self, form: &Form) -> Result<(), Misfit> {
        while !self.0.is_empty() {
            self.blank_value(form)?;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Misfit> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Misfit),
        }
    }
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
