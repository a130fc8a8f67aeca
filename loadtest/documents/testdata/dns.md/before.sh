cp -r /etc/millrace/. .
