//! Arrow arrays as JSON values.

use farmhand_core::{Error, Result};
use polars_arrow::array::{
    Array, BinaryArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, ListArray, PrimitiveArray,
    StructArray, Utf8Array, Utf8ViewArray,
};
use polars_arrow::datatypes::{ArrowDataType, TimeUnit};
use polars_arrow::types::NativeType;
use serde_json::{Map, Value};

const SECS_A_DAY: i64 = 86_400;

/// The values of an array; null where it has none.
///
/// # Errors
/// When JSON has nothing for the array's type.
pub(crate) fn json_values(array: &dyn Array) -> Result<Vec<Value>> {
    use ArrowDataType as Type;
    match array.dtype() {
        Type::Null => Ok(vec![Value::Null; array.len()]),
        Type::Boolean => {
            let array = downcast::<BooleanArray>(array)?;
            Ok(array.iter().map(|value| value.map_or(Value::Null, Value::Bool)).collect())
        }
        Type::Int8 => numbers::<i8>(array, |value| value.into()),
        Type::Int16 => numbers::<i16>(array, |value| value.into()),
        Type::Int32 => numbers::<i32>(array, |value| value.into()),
        Type::Int64 => numbers::<i64>(array, |value| value.into()),
        Type::UInt8 => numbers::<u8>(array, |value| value.into()),
        Type::UInt16 => numbers::<u16>(array, |value| value.into()),
        Type::UInt32 => numbers::<u32>(array, |value| value.into()),
        Type::UInt64 => numbers::<u64>(array, |value| value.into()),
        // The number one would write: 0.1, not the digits a conversion to f64 would make of it.
        Type::Float32 => numbers::<f32>(array, |value| value.to_string().parse::<f64>().map_or(Value::Null, Value::from)),
        Type::Float64 => numbers::<f64>(array, Value::from),
        Type::Decimal(_, scale) => {
            let scale = *scale as i32;
            numbers::<i128>(array, |value| format!("{value}e-{scale}").parse::<f64>().map_or(Value::Null, Value::from))
        }
        Type::Date32 => numbers::<i32>(array, |days| date(days.into()).into()),
        Type::Date64 => numbers::<i64>(array, |millis| date(millis.div_euclid(SECS_A_DAY * 1000)).into()),
        Type::Time32(unit) => numbers::<i32>(array, |value| clock(value.into(), *unit).into()),
        Type::Time64(unit) => numbers::<i64>(array, |value| clock(value, *unit).into()),
        Type::Timestamp(unit, zone) => numbers::<i64>(array, |value| timestamp(value, *unit, zone.is_some()).into()),
        Type::Utf8 => Ok(texts(downcast::<Utf8Array<i32>>(array)?.iter())),
        Type::LargeUtf8 => Ok(texts(downcast::<Utf8Array<i64>>(array)?.iter())),
        Type::Utf8View => Ok(texts(downcast::<Utf8ViewArray>(array)?.iter())),
        Type::Binary => bytes(downcast::<BinaryArray<i32>>(array)?.iter()),
        Type::LargeBinary => bytes(downcast::<BinaryArray<i64>>(array)?.iter()),
        Type::BinaryView => bytes(downcast::<BinaryViewArray>(array)?.iter()),
        Type::FixedSizeBinary(_) => bytes(downcast::<FixedSizeBinaryArray>(array)?.iter()),
        Type::List(_) => lists(downcast::<ListArray<i32>>(array)?.iter()),
        Type::LargeList(_) => lists(downcast::<ListArray<i64>>(array)?.iter()),
        Type::FixedSizeList(..) => lists(downcast::<FixedSizeListArray>(array)?.iter()),
        Type::Struct(_) => objects(downcast::<StructArray>(array)?),
        other => Err(Error::invalid_data(format!("values of type {other:?} have no form in JSON"))
            .with_hint("drop the column, or convert it to text or numbers")),
    }
}

fn downcast<A: 'static>(array: &dyn Array) -> Result<&A> {
    array
        .as_any()
        .downcast_ref()
        .ok_or_else(|| Error::invalid_data(format!("values are not stored as their type {:?} says", array.dtype())))
}

fn numbers<T: NativeType>(array: &dyn Array, json: impl Fn(T) -> Value) -> Result<Vec<Value>> {
    let array = downcast::<PrimitiveArray<T>>(array)?;
    Ok(array.iter().map(|value| value.map_or(Value::Null, |value| json(*value))).collect())
}

fn texts<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Vec<Value> {
    texts.map(|text| text.map_or(Value::Null, Value::from)).collect()
}

/// Bytes that are text; older writers do not mark their text as such.
fn bytes<'a>(all: impl Iterator<Item = Option<&'a [u8]>>) -> Result<Vec<Value>> {
    let text = |bytes: Option<&[u8]>| match bytes.map(std::str::from_utf8) {
        None => Ok(Value::Null),
        Some(Ok(text)) => Ok(text.into()),
        Some(Err(_)) => {
            Err(Error::invalid_data("holds bytes that are not UTF-8 text").with_hint("drop the column, or convert it to text"))
        }
    };
    all.map(text).collect()
}

fn lists(all: impl Iterator<Item = Option<Box<dyn Array>>>) -> Result<Vec<Value>> {
    all.map(|list| list.map_or(Ok(Value::Null), |list| Ok(Value::Array(json_values(list.as_ref())?)))).collect()
}

fn objects(array: &StructArray) -> Result<Vec<Value>> {
    let mut rows = vec![Map::new(); array.len()];
    for (field, values) in array.fields().iter().zip(array.values()) {
        for (row, value) in rows.iter_mut().zip(json_values(values.as_ref())?) {
            row.insert(field.name.to_string(), value);
        }
    }
    let present = |index: usize| array.validity().is_none_or(|validity| validity.get_bit(index));
    Ok(rows.into_iter().enumerate().map(|(index, row)| if present(index) { Value::Object(row) } else { Value::Null }).collect())
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// `YYYY-MM-DD` of a day counted from 1970-01-01, in the Gregorian calendar (also before it began).
fn date(days: i64) -> String {
    // Years are counted from March, so that a leap day is the last of its year; an era has 400 of them.
    let day = days + 719_468;
    let (era, day_of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

/// `HH:MM:SS`, with a fraction where there is one: in milliseconds if that says it, else micro-, else nanoseconds.
fn clock(value: i64, unit: TimeUnit) -> String {
    let (seconds, rest) = (value.div_euclid(per_second(unit)), value.rem_euclid(per_second(unit)));
    let nanos = rest * (1_000_000_000 / per_second(unit));
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match nanos {
        0 => time,
        nanos if nanos % 1_000_000 == 0 => format!("{time}.{:03}", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!("{time}.{:06}", nanos / 1_000),
        nanos => format!("{time}.{nanos:09}"),
    }
}

/// ISO 8601; a timestamp with a time zone is stored in UTC and written so.
fn timestamp(value: i64, unit: TimeUnit, zoned: bool) -> String {
    let a_day = SECS_A_DAY * per_second(unit);
    let (days, time) = (value.div_euclid(a_day), value.rem_euclid(a_day));
    format!("{}T{}{}", date(days), clock(time, unit), if zoned { "Z" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (-25_509, "1900-02-28"),
            (-25_508, "1900-03-01"),
            (19_782, "2024-02-29"),
            (-719_162, "0001-01-01"),
        ] {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn times_have_the_digits_they_need() {
        assert_eq!(timestamp(-1, TimeUnit::Nanosecond, true), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(timestamp(1_500, TimeUnit::Millisecond, false), "1970-01-01T00:00:01.500");
        assert!(timestamp(i64::MAX, TimeUnit::Second, false).ends_with("T15:30:07"));
        assert_eq!(clock(1, TimeUnit::Microsecond), "00:00:00.000001");
    }
}
