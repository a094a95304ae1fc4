/* SPDX-License-Identifier: Apache-2.0 */
/* What an SQLSTATE means: a code for the program and a class name for people (as Python's drivers name them). */

#include "celeryc/db/db_priv.h"

struct state_name {
    const char *state, *name;
};

/* Whole codes first; a two-letter entry stands for the rest of its class. */
static const struct state_name names[] = {
    {"22001", "StringDataRightTruncation"},
    {"22003", "NumericValueOutOfRange"},
    {"22007", "InvalidDatetimeFormat"},
    {"22008", "DatetimeFieldOverflow"},
    {"22P02", "InvalidTextRepresentation"},
    {"22", "DataError"},
    {"23502", "NotNullViolation"},
    {"23503", "ForeignKeyViolation"},
    {"23505", "UniqueViolation"},
    {"23514", "CheckViolation"},
    {"23P01", "ExclusionViolation"},
    {"23", "IntegrityError"},
    {"25006", "ReadOnlySqlTransaction"},
    {"40001", "SerializationFailure"},
    {"40P01", "DeadlockDetected"},
    {"40", "TransactionRollback"},
    {"42501", "InsufficientPrivilege"},
    {"42601", "SyntaxError"},
    {"42703", "UndefinedColumn"},
    {"42804", "DatatypeMismatch"},
    {"42P01", "UndefinedTable"},
    {"42", "ProgrammingError"},
    {"53100", "DiskFull"},
    {"53300", "TooManyConnections"},
    {"55P03", "LockNotAvailable"},
    {"57014", "QueryCanceled"},
    {"57P01", "AdminShutdown"},
    {"57P02", "CrashShutdown"},
    {"57P03", "CannotConnectNow"},
    {"P0001", "RaiseException"},
    {"08", "ConnectionError"},
    {"28", "InvalidAuthorizationSpecification"},
    {"3D", "InvalidCatalogName"},
    {"3F", "InvalidSchemaName"},
    {"53", "OperationalError"},
    {"55", "OperationalError"},
    {"57", "OperationalError"},
    {"58", "OperationalError"},
    {"XX", "InternalError"},
};

/* Classes that another try may cure, and those that belong to one record's data. A trigger that raises (P0) judges a
 * record, and so does a program limit (an index row that is too long); the rest would meet every record alike. */
static const char *const retry_states[] = {"08",    "40",    "53",    "55P03", "55006", "57014",
                                           "57P01", "57P02", "57P03", "57P05", "58",    "25P03"};
static const char *const data_states[] = {"21", "22", "23", "27", "44", "54", "P0"};

static bool in_class(const char *state, const char *class)
{
    return strncmp(state, class, strlen(class)) == 0;
}

int db_code_of(const char *state)
{
    for (size_t i = 0; i < ARRAY_SIZE(retry_states); i++)
        if (in_class(state, retry_states[i]))
            return DB_E_RETRY;
    for (size_t i = 0; i < ARRAY_SIZE(data_states); i++)
        if (in_class(state, data_states[i]))
            return DB_E_DATA;
    return DB_E_SCHEMA;
}

int db_fail(struct db *db, const char *sqlstate)
{
    const char *name = "DatabaseError";

    (void)snprintf(db->sqlstate, sizeof(db->sqlstate), "%s", sqlstate);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (in_class(sqlstate, names[i].state)) {
            name = names[i].name;
            break;
        }
    }
    (void)snprintf(db->error_class, sizeof(db->error_class), "%s", name);
    return db_code_of(sqlstate);
}
