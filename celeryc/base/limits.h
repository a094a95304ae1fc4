/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Every limit on what a peer can make us hold, in one table. A value over its limit gets a clear error. */

#define LIMIT_MESSAGE_BYTES    (64u << 20)  /* one queue element, one reply string */
#define LIMIT_REPLY_ELEMENTS   (1u << 20)   /* elements of one Redis reply */
#define LIMIT_REPLY_BYTES      (512u << 20) /* all strings of one Redis reply */
#define LIMIT_JSON_DEPTH       256          /* nesting of one JSON text */
#define LIMIT_FRAME_BYTES      (96u << 20)  /* one frame between master and child */
#define LIMIT_LOG_LINE         (16u << 10)  /* one log line */
#define LIMIT_REPR_BYTES       1024         /* argsrepr, kwargsrepr, results in log lines */
#define LIMIT_TRACEBACK_BYTES  (64u << 10)  /* a traceback kept in a result */
#define LIMIT_TASK_NAME        255          /* a task's name */
#define LIMIT_CLAIM_BATCH      500          /* messages of one claim script */
#define LIMIT_ETA_HELD         1000         /* near ETAs that one worker holds claimed */
#define LIMIT_ETA_HELD_BYTES   (64u << 20)  /* and how large they are together */
#define LIMIT_DATABASE_ALIASES 64           /* --database options of one worker */
#define LIMIT_CHILDREN         1024         /* children of one worker */
#define LIMIT_THREADS          1024         /* threads of one child */
#define LIMIT_OBJECT_BYTES     (1u << 30)   /* one object fetched from a store */
#define LIMIT_BATCH_BYTES      (2u << 30)   /* one batch after decompression */
#define LIMIT_BATCH_LINE       (16u << 20)  /* one record line of a batch file */
#define LIMIT_BATCH_RECORDS    1000000u     /* records of one batch */
#define LIMIT_COLUMNS          256          /* columns of a record */
#define LIMIT_SQL_BYTES        (256u << 10) /* the file of a migration in SQL */
#define LIMIT_KEY_COLUMNS      16           /* and of its key */
#define LIMIT_CONFIG_BYTES     (1u << 20)   /* a --config file */
#define LIMIT_BOUNCES          5000         /* times that an unknown task is passed on */
#define LIMIT_PUZZLED          1000         /* such messages that wait for an answer */
#define LIMIT_CENSUS_NAMES     200000       /* names that other workers may tell of */
#define LIMIT_CONTROL_BYTES    (16u << 20)  /* a message of remote control */
#define LIMIT_CONTROL_REPLY    (16u << 20)  /* and the reply to it */
#define LIMIT_CONTROL_ARGS     (1u << 20)   /* a task's body that is shown decoded */
#define LIMIT_CONTROL_NAME     1024         /* a task id or stamp that can be revoked */
#define LIMIT_CONTROL_DELAYED  1000         /* delayed messages that `inspect scheduled` shows */
#define LIMIT_CONTROL_STAMPS   10000        /* stamps of one command */
#define LIMIT_CONTROL_PATTERN  1024         /* a pattern for node names */
#define LIMIT_LATE_RESULTS     100000       /* results remembered for late subscribers */
#define LIMIT_SIG_OPTIONS      1024         /* options of one signature */
#define LIMIT_SIG_LINKS        4096         /* callbacks or errbacks of one signature */
#define LIMIT_CALLED_BYTES     (64u << 10)  /* errbacks that a failed part tells of */
#define LIMIT_SERVERS          64           /* servers or Sentinels of one URL list */
#define LIMIT_TIMEOUT_SECONDS  86400        /* a timeout of a connection */
#define LIMIT_YAML_NODES       (1u << 20)   /* values of one YAML body */
#define LIMIT_YAML_ALIASED     100000       /* values that its aliases stand for, once more */
#define LIMIT_CERTIFICATES     10000        /* files of security_cert_store */
#define LIMIT_PEM_BYTES        (1u << 20)   /* a file with a key or a certificate */
#define LIMIT_AWS_SETTINGS     10000       /* settings and sections of one AWS configuration file */
#define LIMIT_AWS_ANSWER       (64u << 10) /* an answer that holds credentials, a token file */
#define LIMIT_SCALER_NODES     4096        /* workers whose heartbeats it reads */
#define LIMIT_SCALER_EVENT     (1u << 20)  /* one of those heartbeats */
#define LIMIT_SCALER_TARGETS   64          /* Deployments of one scaler */
#define LIMIT_SCALER_QUEUES    256         /* queues of one of them */
#define LIMIT_SCALER_DEAD      1000        /* dead celeryc workers whose messages it counts */
#define LIMIT_KUBE_ANSWER      (32u << 20) /* one answer of a Kubernetes API server */
#define LIMIT_KUBE_PODS        20000u      /* pods of one Deployment */
#define LIMIT_KUBE_PAGES       1000        /* pages of one list */
#define LIMIT_KUBE_STATE \
    (128u << 10) /* the scaler's memory in an annotation; the server takes 256 KiB of them all */
