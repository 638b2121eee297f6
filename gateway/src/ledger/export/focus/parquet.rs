//! FOCUS as Parquet: the same lines with typed columns. Amounts, prices and quantities are `DECIMAL(38, 12)`, times are
//! UTC timestamps in milliseconds; everything may be null. Nothing is compressed but by dictionaries, and nothing says
//! when or where it was written, so that the same lines are the same bytes.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

use super::columns::COLUMNS;
use super::{ExportError, Focus, Request};
use crate::civil;
use crate::ledger::export::{LineError, Lines};
use crate::ledger::row::Transfer;

/// Lines of a row group; they are in memory until it is written.
const GROUP: usize = 1 << 16;
const PRECISION: i32 = 38;
const SCALE: usize = 12;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Decimal,
    Time,
    Integer,
    Boolean,
    Text,
}

impl Kind {
    fn of(name: &str) -> Self {
        let is_decimal = name.ends_with("Cost") || name.ends_with("UnitPrice") || name.ends_with("Quantity");
        match name {
            _ if is_decimal => Self::Decimal,
            "BillingPeriodStart" | "BillingPeriodEnd" | "ChargePeriodStart" | "ChargePeriodEnd" => Self::Time,
            "x_LedgerFirstSequence" | "x_LedgerLastSequence" | "x_RequestCount" => Self::Integer,
            "x_TagsOmitted" => Self::Boolean,
            _ => Self::Text,
        }
    }

    fn column(self, name: &str) -> Result<Type> {
        let physical = match self {
            Self::Decimal => Physical::FIXED_LEN_BYTE_ARRAY,
            Self::Time | Self::Integer => Physical::INT64,
            Self::Boolean => Physical::BOOLEAN,
            Self::Text => Physical::BYTE_ARRAY,
        };
        let scale = i32::try_from(SCALE).unwrap_or_default();
        let logical = match self {
            Self::Decimal => Some(LogicalType::decimal(scale, PRECISION)),
            Self::Time => Some(LogicalType::timestamp(true, TimeUnit::MILLIS)),
            Self::Integer | Self::Boolean => None,
            Self::Text => Some(LogicalType::String),
        };
        let column = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        let column = column.with_logical_type(logical);
        match self {
            Self::Decimal => column.with_length(16).with_precision(PRECISION).with_scale(scale).build(),
            _ => column.build(),
        }
    }

    /// Writes the texts of a row group; empty ones are null.
    fn write(self, column: &mut SerializedColumnWriter<'_>, texts: &[String]) -> Result<()> {
        let levels: Vec<i16> = texts.iter().map(|text| i16::from(!text.is_empty())).collect();
        let (texts, levels) = (texts.iter().filter(|text| !text.is_empty()), Some(levels.as_slice()));
        let bad = |text: &String| ParquetError::General(format!("{text:?} is no {self:?}"));
        match self {
            Self::Text => {
                let values: Vec<ByteArray> = texts.map(|text| text.as_str().into()).collect();
                column.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
            }
            Self::Decimal => {
                let value = |text: &String| {
                    let units = units(text).ok_or_else(|| bad(text))?;
                    Ok(FixedLenByteArray::from(units.to_be_bytes().to_vec()))
                };
                let values: Vec<_> = texts.map(value).collect::<Result<_>>()?;
                column.typed::<FixedLenByteArrayType>().write_batch(&values, levels, None)?;
            }
            Self::Time | Self::Integer => {
                let value = |text: &String| {
                    let parsed = match self {
                        Self::Time => civil::parse_ms(text).ok().and_then(|ms| i64::try_from(ms).ok()),
                        _ => text.parse().ok(),
                    };
                    parsed.ok_or_else(|| bad(text))
                };
                let values: Vec<i64> = texts.map(value).collect::<Result<_>>()?;
                column.typed::<Int64Type>().write_batch(&values, levels, None)?;
            }
            Self::Boolean => {
                let value = |text: &String| text.parse().map_err(|_| bad(text));
                let values: Vec<bool> = texts.map(value).collect::<Result<_>>()?;
                column.typed::<BoolType>().write_batch(&values, levels, None)?;
            }
        }
        Ok(())
    }
}

/// A decimal text in units of 1e-12.
fn units(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = format!("{fraction:0<SCALE$}");
    let units: i128 = format!("{whole}{fraction}").parse().ok()?;
    (fraction.len() == SCALE).then_some(sign * units)
}

/// Where the file's writer puts its bytes; they are taken on after each row group.
#[derive(Clone, Debug, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects hours as [`Focus`] does, and their lines until they are a row group.
pub(in crate::ledger::export) struct FocusParquet<'a> {
    focus: Focus<'a>,
    sink: Sink,
    file: SerializedFileWriter<Sink>,
    /// A list a column.
    texts: Vec<Vec<String>>,
}

impl<'a> FocusParquet<'a> {
    pub(in crate::ledger::export) fn new(request: &Request<'a>) -> std::result::Result<Self, ExportError> {
        let focus = Focus::new(request)?;
        let failed = |error: ParquetError| ExportError::Write {
            path: "output".to_owned(),
            source: io::Error::other(error),
        };
        let sink = Sink::default();
        let file = open(sink.clone()).map_err(failed)?;
        Ok(Self { focus, sink, file, texts: vec![Vec::new(); COLUMNS.len()] })
    }

    /// Takes the hour's lines; how many there were.
    fn hour(&mut self) -> Result<u64> {
        let texts = &mut self.texts;
        self.focus.drain(|line| {
            for (texts, (_, value)) in texts.iter_mut().zip(&COLUMNS) {
                texts.push(value(line));
            }
            Ok(())
        })
    }

    /// Writes what is collected as a row group.
    fn group(&mut self) -> Result<()> {
        if self.texts[0].is_empty() {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for (texts, (name, _)) in self.texts.iter_mut().zip(&COLUMNS) {
            let missing = || ParquetError::General(format!("no column {name}"));
            let mut column = group.next_column()?.ok_or_else(missing)?;
            Kind::of(name).write(&mut column, texts)?;
            column.close()?;
            texts.clear();
        }
        group.close()?;
        Ok(self.file.flush()?)
    }
}

/// A file without lines.
fn open(sink: Sink) -> Result<SerializedFileWriter<Sink>> {
    let columns = COLUMNS.iter().map(|(name, _)| Ok(Arc::new(Kind::of(name).column(name)?)));
    let schema = Type::group_type_builder("focus").with_fields(columns.collect::<Result<_>>()?).build()?;
    let properties = WriterProperties::builder()
        .set_created_by("spillway".to_owned())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    SerializedFileWriter::new(sink, Arc::new(schema), Arc::new(properties.build()))
}

impl Lines for FocusParquet<'_> {
    fn row(&mut self, row: &Transfer, out: &mut dyn Write) -> std::result::Result<u64, LineError> {
        let mut lines = 0;
        if self.focus.is_past(row) {
            lines = self.hour().map_err(io::Error::other)?;
            if self.texts[0].len() >= GROUP {
                self.group().map_err(io::Error::other)?;
                out.write_all(&self.sink.take())?;
            }
        }
        self.focus.add(row).map_err(|error| LineError::Refused(error.into()))?;
        Ok(lines)
    }

    fn end(&mut self, out: &mut dyn Write) -> std::result::Result<u64, LineError> {
        let lines = self.hour().map_err(io::Error::other)?;
        self.group().map_err(io::Error::other)?;
        self.file.finish().map_err(io::Error::other)?;
        self.file.flush()?;
        out.write_all(&self.sink.take())?;
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        for (text, want) in [
            ("0.0", Some(0)),
            ("0.000000000001", Some(1)),
            ("-1.5", Some(-1_500_000_000_000)),
            ("12", Some(12_000_000_000_000)),
            ("0.0000000000001", None),
            ("x", None),
        ] {
            assert_eq!(units(text), want, "{text}");
        }
    }

    #[test]
    fn every_amount_is_a_decimal() {
        let of = |kind| COLUMNS.iter().filter(|(name, _)| Kind::of(name) == kind).count();
        let kinds = [Kind::Decimal, Kind::Time, Kind::Integer, Kind::Boolean, Kind::Text];
        assert_eq!(kinds.map(of), [12, 4, 3, 1, 58]);
    }
}
