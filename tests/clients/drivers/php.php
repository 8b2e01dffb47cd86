<?php
// The PHP clients. What a driver is told and answers: `matrix.py`.

const TIMEOUT_SECONDS = 30;

class Unsupported extends Exception
{
}

// Both extensions, and the sessions, say some failures in a warning only.
set_error_handler(function ($level, $text) {
    throw new ErrorException($text, 0, $level);
}, E_WARNING | E_NOTICE);
error_reporting(E_ALL & ~E_DEPRECATED);
ini_set('memory_limit', '512M');

function pairs(array $parts): array
{
    $found = [];
    foreach (array_chunk($parts, 2) as [$key, $value]) {
        $found[$key] = $value;
    }
    return $found;
}

// What a client does not have stays as it is here.
abstract class Client
{
    public function __call($op, $arguments)
    {
        throw new Unsupported();
    }
}

class OfMemcached extends Client
{
    private Memcached $library;
    private array $uniques = [];

    public function __construct(string $host, int $port, private bool $binary = false)
    {
        $this->library = new Memcached();
        $this->library->setOptions([
            Memcached::OPT_BINARY_PROTOCOL => $binary,
            Memcached::OPT_COMPRESSION => false,
            Memcached::OPT_TCP_NODELAY => true,
            Memcached::OPT_CONNECT_TIMEOUT => TIMEOUT_SECONDS * 1000,
            Memcached::OPT_POLL_TIMEOUT => TIMEOUT_SECONDS * 1000,
            Memcached::OPT_SEND_TIMEOUT => TIMEOUT_SECONDS * 1000000,
            Memcached::OPT_RECV_TIMEOUT => TIMEOUT_SECONDS * 1000000,
        ]);
        $this->library->addServer($host, $port);
    }

    // A value, or null where there is none; anything else is a failure.
    private function found($value)
    {
        if ($value === false && $this->library->getResultCode() !== Memcached::RES_SUCCESS) {
            if ($this->library->getResultCode() !== Memcached::RES_NOTFOUND) {
                throw new Exception($this->library->getResultMessage());
            }
            return null;
        }
        return $value;
    }

    public function set($key, $value, $seconds)
    {
        return $this->library->set($key, $value, $seconds);
    }

    public function add($key, $value, $seconds)
    {
        return $this->library->add($key, $value, $seconds);
    }

    public function replace($key, $value, $seconds)
    {
        return $this->library->replace($key, $value, $seconds);
    }

    public function append($key, $value)
    {
        return $this->library->append($key, $value);
    }

    public function prepend($key, $value)
    {
        return $this->library->prepend($key, $value);
    }

    public function get($key)
    {
        return $this->found($this->library->get($key));
    }

    public function gets($key)
    {
        $found = $this->found($this->library->get($key, null, Memcached::GET_EXTENDED));
        $this->uniques[$key] = $found['cas'];
        return $found['value'];
    }

    public function cas($key, $value, $seconds)
    {
        return $this->library->cas($this->uniques[$key], $key, $value, $seconds);
    }

    public function incr($key, $number)
    {
        return $this->found($this->library->increment($key, $number));
    }

    public function decr($key, $number)
    {
        return $this->found($this->library->decrement($key, $number));
    }

    public function touch($key, $seconds)
    {
        // In binary libmemcached waits for more than the answer has, until this is over.
        $this->library->setOption(Memcached::OPT_POLL_TIMEOUT, $this->binary ? 2000 : TIMEOUT_SECONDS * 1000);
        $touched = $this->library->touch($key, $seconds);
        $this->library->setOption(Memcached::OPT_POLL_TIMEOUT, TIMEOUT_SECONDS * 1000);
        return $touched;
    }

    public function delete($key)
    {
        return $this->library->delete($key);
    }

    public function multiget(...$keys)
    {
        return (object) $this->found($this->library->getMulti($keys));
    }

    public function multiset(...$parts)
    {
        return $this->library->setMulti(pairs($parts), 1000);
    }

    private function quietly($op, ...$arguments)
    {
        $this->library->setOption(Memcached::OPT_NOREPLY, true);
        $this->library->$op(...$arguments);
        $this->library->setOption(Memcached::OPT_NOREPLY, false);
    }

    public function quiet_set($key, $value, $seconds)
    {
        $this->quietly('set', $key, $value, $seconds);
    }

    public function quiet_delete($key)
    {
        $this->quietly('delete', $key);
    }

    public function stats()
    {
        return (object) current($this->found($this->library->getStats()));
    }

    public function version()
    {
        return current($this->found($this->library->getVersion()));
    }

    public function flush()
    {
        return $this->library->flush();
    }
}

class OfMemcache extends Client
{
    private Memcache $library;
    private array $uniques = [];

    public function __construct(string $host, int $port)
    {
        $this->library = new Memcache();
        // Not persistent, of weight 1, and tried again at once.
        $this->library->addServer($host, $port, false, 1, TIMEOUT_SECONDS, 0);
    }

    private function found($value)
    {
        return $value === false ? null : $value;
    }

    public function set($key, $value, $seconds)
    {
        return $this->library->set($key, $value, 0, $seconds);
    }

    public function add($key, $value, $seconds)
    {
        return $this->library->add($key, $value, 0, $seconds);
    }

    public function replace($key, $value, $seconds)
    {
        return $this->library->replace($key, $value, 0, $seconds);
    }

    public function append($key, $value)
    {
        return $this->library->append($key, $value);
    }

    public function prepend($key, $value)
    {
        return $this->library->prepend($key, $value);
    }

    public function get($key)
    {
        return $this->found($this->library->get($key));
    }

    public function gets($key)
    {
        $flags = $unique = null;
        $value = $this->library->get($key, $flags, $unique);
        $this->uniques[$key] = $unique;
        return $this->found($value);
    }

    public function cas($key, $value, $seconds)
    {
        return $this->library->cas($key, $value, 0, $seconds, $this->uniques[$key]);
    }

    public function incr($key, $number)
    {
        return $this->found($this->library->increment($key, $number));
    }

    public function decr($key, $number)
    {
        return $this->found($this->library->decrement($key, $number));
    }

    public function delete($key)
    {
        return $this->library->delete($key);
    }

    public function multiget(...$keys)
    {
        return (object) $this->library->get($keys);
    }

    public function stats()
    {
        return (object) $this->library->getStats();
    }

    public function version()
    {
        return $this->found($this->library->getVersion());
    }

    public function flush()
    {
        return $this->library->flush();
    }
}

// PHP's sessions in memcached, as they are set up by default: in binary, and each behind a lock that is added first.
class Sessions extends Client
{
    public function __construct(string $host, int $port)
    {
        foreach (
            [
                'session.save_handler' => 'memcached',
                'session.save_path' => "$host:$port",
                'session.use_cookies' => 0,
                'session.use_only_cookies' => 0,
                'session.cache_limiter' => '',
                'session.gc_probability' => 0,
                'memcached.sess_connect_timeout' => TIMEOUT_SECONDS * 1000,
            ] as $name => $value
        ) {
            ini_set($name, (string) $value);
        }
    }

    private function start($key, $seconds, array $options = [])
    {
        ini_set('session.gc_maxlifetime', (string) ($seconds ?: 1000));
        $id = preg_replace_callback('/[^A-Za-z0-9-]/', fn ($found) => ',' . bin2hex($found[0]), $key);
        session_id($id);
        $_SESSION = [];
        session_start($options);
    }

    public function set($key, $value, $seconds)
    {
        $this->start($key, $seconds);
        $_SESSION['value'] = $value;
        return session_write_close();
    }

    public function get($key)
    {
        $this->start($key, 1000, ['read_and_close' => true]);
        return $_SESSION['value'] ?? null;
    }

    public function delete($key)
    {
        $this->start($key, 1000);
        return session_destroy();
    }
}

$arguments = function (string $op, array $fields): array {
    if (in_array($op, ['get', 'gets', 'delete', 'multiget', 'multiset', 'quiet_delete'])) {
        return array_map('base64_decode', $fields);
    }
    $numbers = in_array($op, ['incr', 'decr', 'touch', 'gat']) ? 1 : 2;
    foreach ($fields as $index => $field) {
        $fields[$index] = $index < $numbers ? base64_decode($field) : (int) $field;
    }
    return $fields;
};

$answer = function ($found): string {
    if (is_bool($found)) {
        return $found ? 'true' : 'false';
    }
    if ($found === null) {
        return 'none';
    }
    if (is_int($found)) {
        return "number\t$found";
    }
    if (is_object($found)) {
        $said = 'pairs';
        foreach ((array) $found as $key => $value) {
            $said .= "\t" . base64_encode($key) . "\t" . base64_encode($value);
        }
        return $said;
    }
    return "value\t" . base64_encode($found);
};

[, $name, $host, $port] = $argv;
$client = match ($name) {
    'php memcached' => new OfMemcached($host, $port),
    'php memcached binary' => new OfMemcached($host, $port, true),
    'php memcached sessions' => new Sessions($host, $port),
    'php memcache' => new OfMemcache($host, $port),
};
while (($line = fgets(STDIN)) !== false) {
    $fields = explode("\t", rtrim($line, "\n"));
    $op = array_shift($fields);
    try {
        $found = $client->$op(...$arguments($op, $fields));
        $said = str_starts_with($op, 'quiet_') ? 'done' : $answer($found);
    } catch (Unsupported) {
        $said = 'unsupported';
    } catch (Throwable $error) {
        $said = "error\t" . strtr($error->getMessage(), "\n\t", '  ');
        fwrite(STDERR, "$said\n");
        if (session_status() === PHP_SESSION_ACTIVE) {
            session_abort();
        }
    }
    fwrite(STDOUT, "$said\n");
}
