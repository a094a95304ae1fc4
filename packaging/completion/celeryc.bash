# bash completion for celeryc
_celeryc()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
        worker|call|result|purge|dead|delayed|doctor|drain|tasks|completion|help) command=$word; break ;;
        esac
    done
    case $command in
    worker)
        case $prev in
        -A|--app) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --workdir) compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")); return ;;
        -n|--hostname) return ;;
        -l|--loglevel) COMPREPLY=($(compgen -W "DEBUG INFO WARNING ERROR CRITICAL FATAL" -- "$cur")); return ;;
        -O|--optimization) COMPREPLY=($(compgen -W "default fair" -- "$cur")); return ;;
        --prefetch-multiplier) return ;;
        --drain-timeout) return ;;
        --database) return ;;
        -c|--concurrency) return ;;
        -P|--pool) COMPREPLY=($(compgen -W "prefork threads solo" -- "$cur")); return ;;
        --time-limit) return ;;
        --soft-time-limit) return ;;
        --max-tasks-per-child) return ;;
        -Q|--queues) return ;;
        -X|--exclude-queues) return ;;
        --heartbeat-interval) return ;;
        -f|--logfile) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --pidfile) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " -A --app -b --broker --result-backend --config --workdir -q --quiet -n --hostname -l --loglevel -O --optimization --prefetch-multiplier --disable-prefetch --drain-timeout --database -c --concurrency -P --pool -E --task-events --events --time-limit --soft-time-limit --max-tasks-per-child -Q --queues -X --exclude-queues --purge --discard --without-gossip --without-mingle --without-heartbeat --heartbeat-interval -f --logfile --pidfile --help" -- "$cur")) ;;
    call)
        case $prev in
        -a|--args) return ;;
        -k|--kwargs) return ;;
        --canvas) return ;;
        --countdown) return ;;
        --eta) return ;;
        --expires) return ;;
        --priority) return ;;
        --task-id) return ;;
        -Q|--queue) return ;;
        --timeout) return ;;
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " -a --args -k --kwargs --canvas --countdown --eta --expires --priority --task-id -Q --queue --wait --timeout -b --broker --result-backend --config --help" -- "$cur")) ;;
    result)
        case $prev in
        --timeout) return ;;
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " --wait --timeout --record -b --broker --result-backend --config --help" -- "$cur")) ;;
    purge)
        case $prev in
        -Q|--queues) return ;;
        -X|--exclude-queues) return ;;
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " -f --force -Q --queues -X --exclude-queues -b --broker --result-backend --config --help" -- "$cur")) ;;
    dead)
        case $prev in
        -Q|--queues) return ;;
        --limit) return ;;
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " -Q --queues --limit --all --json -f --force -b --broker --result-backend --config --help list show retry purge" -- "$cur")) ;;
    delayed)
        case $prev in
        --limit) return ;;
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " --limit --all --json -f --force -b --broker --result-backend --config --help list show flush" -- "$cur")) ;;
    doctor)
        case $prev in
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " --fix --json -b --broker --result-backend --config --help" -- "$cur")) ;;
    drain)
        case $prev in
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " --to-celery -f --force -b --broker --result-backend --config --help" -- "$cur")) ;;
    tasks)
        case $prev in
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " -b --broker --result-backend --config --help" -- "$cur")) ;;
    completion)
        case $prev in
        -b|--broker) return ;;
        --result-backend) return ;;
        --config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        esac
        COMPREPLY=($(compgen -W " -b --broker --result-backend --config --help bash zsh man" -- "$cur")) ;;
    *)
        COMPREPLY=($(compgen -W "worker call result purge dead delayed doctor drain tasks completion help --app --broker --result-backend --config --workdir --quiet --version --help" -- "$cur")) ;;
    esac
}
complete -F _celeryc celeryc
